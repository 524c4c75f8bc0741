"""What a study found, told from its store alone."""
