"""The configuration file: YAML text becomes a frozen, complete Settings, or a list of problems with their places."""
