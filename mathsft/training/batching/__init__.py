"""The examples of every optimizer step, and their micro-batches."""
