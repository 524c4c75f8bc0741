"""What is observed while it happens: observers of the book. They decide nothing and nothing waits for them."""
