"""Optional dependencies that a configuration requires."""

from importlib import import_module
from typing import Final

from gateway.errors import Problem
from gateway.settings.model import Settings

_KEY: Final = "observability.tracing"
_MODULES: Final = ("opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


def missing_extras(settings: Settings) -> tuple[Problem, ...]:
    """Problems for keys whose optional dependencies cannot be imported.

    The modules are imported, because a package can be incomplete or of an incompatible version.
    """
    if settings.observability.tracing is None:
        return ()
    for module in _MODULES:
        try:
            import_module(module)
        except Exception as error:  # any, because generated protobuf code raises its own types
            name = getattr(error, "name", None) or module
            message = f"needs {name}, which cannot be imported (pip install 'asgi-gateway[tracing]')"
            return (Problem(*settings.position_of(_KEY), _KEY, message),)
    return ()
