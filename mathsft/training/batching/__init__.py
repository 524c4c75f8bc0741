"""Which examples every optimizer step reads, and how they are laid out for the model."""
