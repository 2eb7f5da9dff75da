"""gateway: the identity-aware reverse proxy that Python teams put in front of their APIs."""

__version__ = "0.1.0"
