"""What makes training on a CPU faster, and how it uses memory."""
