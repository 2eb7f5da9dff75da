"""The endpoints of the gateway itself: accounts, administration, operations, console, OpenAPI."""
