"""What is observed while it happens: observers of the store. They decide nothing and nothing waits for them."""
