"""The output of `gateway check --openapi`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway.analysis.openapi.coverage import Coverage
from gateway.analysis.openapi.spec import SpecOperation
from gateway.cli.output import say
from gateway.observability.escaping import printable
from gateway.policy.route import Route


def show_coverage(found: Coverage, spec: Path | None) -> None:
    """Print one line per finding, with the place of routes."""
    for operation in found.without_rule:
        say(printable(f"{spec}: {operation}: no rule serves it"), colour="red")
    for operation in found.own:
        say(printable(f"{spec}: {operation}: the gateway answers this path itself"), colour="red")
    for unread in found.unreadable:
        say(printable(f"{spec}: {unread.path}: cannot be compared: {unread.reason}"), colour="red")
    for route in found.without_operation:
        say(printable(f"{_place(route)}: route '{route.name}' serves no operation of {spec}"), colour="red")


def coverage_document(found: Coverage) -> dict[str, Any]:
    """The findings as JSON values."""
    return {
        "operations_without_rule": _operations(found.without_rule),
        "operations_at_own_paths": _operations(found.own),
        "unreadable_paths": [each._asdict() for each in found.unreadable],
        "rules_without_operation": [
            {"route": each.name, "line": None if each.position is None else each.position.line}
            for each in found.without_operation
        ],
    }


def _operations(operations: Iterable[SpecOperation]) -> list[dict[str, Any]]:
    return [{"method": each.method, "path": each.path, "operation_id": each.name} for each in operations]


def _place(route: Route) -> str:
    position = route.position
    return "-" if position is None else f"{position.file}:{position.line}:{position.column}"
