"""The study's database and the lock on its folder."""
