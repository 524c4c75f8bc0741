"""What is recorded is what happened: the study's database and its folder."""
