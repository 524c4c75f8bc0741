"""The schema of all settings, and loading them from YAML files and the command line."""
