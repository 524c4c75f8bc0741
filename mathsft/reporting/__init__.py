"""What a study found, told from its book alone."""
