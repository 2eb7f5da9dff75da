"""The configuration file: from YAML text to one frozen, complete Settings, or to every problem with its place."""
