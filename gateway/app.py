"""The gateway as an ASGI application, for ASGI servers and for programs that embed it."""

import os
from pathlib import Path

from starlette.applications import Starlette

from gateway.policy.loader import Configuration, load_configuration
from gateway.server.asgi.app import AsgiApp

__all__ = ["create_app", "create_app_from_environment"]


def create_app(configuration: Configuration, *, owns_process: bool = False) -> Starlette:
    """The gateway as an ASGI application. Its lifespan opens and closes the stores.

    `owns_process` means that nothing else runs in this process, so the gateway can control garbage collection.
    """
    return AsgiApp(configuration, owns_process=owns_process)


def create_app_from_environment() -> Starlette:
    """A factory for ASGI servers. The configuration is GATEWAY_CONFIG, by default config/gateway.yaml."""
    configuration = load_configuration(Path(os.environ.get("GATEWAY_CONFIG", "config/gateway.yaml")))
    return create_app(configuration, owns_process=True)
