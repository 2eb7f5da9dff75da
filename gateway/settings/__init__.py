"""The configuration file: YAML text becomes one frozen, complete Settings, or every problem with its place."""
