"""Compares two mathematical answers by value."""
