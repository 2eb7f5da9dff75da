"""Optional dependencies of the gateway that a configuration needs. All others are installed with it."""

from importlib import import_module
from typing import Final

from gateway.errors import Problem
from gateway.settings.model import Settings

_KEY: Final = "observability.tracing"
_MODULES: Final = ("opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


def missing_extras(settings: Settings) -> tuple[Problem, ...]:
    """The keys whose optional dependencies cannot be imported, each with its place.

    The modules are imported, because a package can be there in part, or in a version that does not work.
    """
    if settings.observability.tracing is None:
        return ()
    for module in _MODULES:
        try:
            import_module(module)
        except Exception as error:  # any: generated code of another protobuf raises errors of its own
            name = getattr(error, "name", None) or module
            message = f"needs {name}, which cannot be imported (pip install 'gateway[tracing]')"
            return (Problem(*settings.position_of(_KEY), _KEY, message),)
    return ()
