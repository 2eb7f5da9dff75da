"""The gateway as an ASGI application, for ASGI servers and for programs that embed it."""

import os
from pathlib import Path

from starlette.applications import Starlette

from gateway.policy.loader import load_configuration
from gateway.server.composition import create_app

__all__ = ["create_app", "create_app_from_environment"]


def create_app_from_environment() -> Starlette:
    """A factory for ASGI servers. The configuration is GATEWAY_CONFIG, by default config/gateway.yaml."""
    configuration = load_configuration(Path(os.environ.get("GATEWAY_CONFIG", "config/gateway.yaml")))
    return create_app(configuration, owns_process=True)
