"""Settings: their schema, and loading them from YAML files and overrides."""
