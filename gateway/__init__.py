"""gateway: an identity-aware reverse proxy for HTTP APIs."""

__version__ = "0.2.0"
