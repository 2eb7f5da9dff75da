"""`gateway diff`: compare two configurations and show which access the change opens and closes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import click

from gateway.analysis.access import CallerKind
from gateway.analysis.describe import caller, callers_in_words, methods
from gateway.analysis.diff import Difference, PolicyChange, PolicyDiff, Reach, compare
from gateway.analysis.regions import RegionResult
from gateway.cli.configuration import json_option, loaded_policy
from gateway.cli.output import print_json, say
from gateway.cli.program import FINE, NO
from gateway.policy.loader import Configuration

_COLOURS: Final = {"opens": "red", "closes": "yellow", "moves": "blue", "changes": "cyan"}
_NOTES: Final = {
    "requests": "",
    "websocket": " (WebSocket)",
    "encoded slash": " (paths with %2F)",
}
_OPENED_PATHS: Final = "server.paths: relaxed accepts paths that strict refuses: empty segments, ';', double escapes"
_CLOSED_PATHS: Final = "server.paths: strict refuses paths that relaxed accepts: empty segments, ';', double escapes"


def show(found: PolicyDiff) -> None:
    """Print the difference for a terminal or a build log."""
    for difference in found.differences:
        _show_one(difference)
    for kind, note in _notes(found):
        say(f"{kind:<8}{note}", colour=_COLOURS[kind])
    if found.also:
        say(f"also different, but not compared: {', '.join(found.also)}")
    say(_summary(found), colour="red" if found.opens else "green")


def _show_one(difference: Difference) -> None:
    say(f"{_kind(difference):<8}{_place(difference)}", colour=_COLOURS[_kind(difference)])
    for word, reaches in (("opens", difference.opens), ("closes", difference.closes)):
        for reach in reaches:
            say(f"        {word} for {_callers(reach.callers, difference)}{_NOTES[reach.kind]}")
    for change in _handling(difference):
        say(f"        {change.key}: {change.old} -> {change.new}")
    if difference.opens or difference.closes:
        say(f"        was   {_rule(difference.old)}")
        say(f"        now   {_rule(difference.new)}")
    say(f"        such as  {_example(difference)}")


def as_markdown(found: PolicyDiff) -> str:
    """Render the difference for a review comment."""
    lines = [f"### Policy: {_summary(found)}", ""]
    if found.differences:
        lines += ["| | requests | callers | was | now |", "|---|---|---|---|---|"]
        lines += [_markdown_row(difference) for difference in found.differences]
        lines.append("")
    lines += [f"- **{kind}** {_escaped(note)}" for kind, note in _notes(found)]
    if found.also:
        lines.append(f"- also different, but not compared: {', '.join(f'`{key}`' for key in found.also)}")
    return "\n".join(lines).rstrip()


def _markdown_row(difference: Difference) -> str:
    whom = [
        f"{word} for {_callers(reach.callers, difference)}{_NOTES[reach.kind]}"
        for word, reaches in (("opens", difference.opens), ("closes", difference.closes))
        for reach in reaches
    ]
    whom += [f"{change.key}: {change.old} → {change.new}" for change in _handling(difference)]
    cells = [
        f"**{_kind(difference)}**",
        f"`{_place(difference)}`",
        _escaped("; ".join(whom)),
        *(_escaped(_rule(answer)) for answer in (difference.old, difference.new)),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def json_of(found: PolicyDiff, old: Configuration, new: Configuration) -> dict[str, Any]:
    """The difference as JSON values."""
    return {
        "old": old.settings.places.file,
        "new": new.settings.places.file,
        "opens": found.opens,
        "differences": [_entry(difference) for difference in found.differences],
        "opened_paths": found.opened_paths,
        "closed_paths": found.closed_paths,
        "opened_hosts": list(found.opened_hosts),
        "closed_hosts": list(found.closed_hosts),
        "upstreams": [change._asdict() for change in found.upstreams],
        "also": list(found.also),
    }


def _entry(difference: Difference) -> dict[str, Any]:
    return {
        "host": difference.host,
        "path": difference.path,
        "methods": None if difference.methods is None else list(difference.methods),
        "except_methods": list(difference.except_methods),
        "old": _side(difference.old),
        "new": _side(difference.new),
        "opens": [_reach(reach) for reach in difference.opens],
        "closes": [_reach(reach) for reach in difference.closes],
        "moves": None if difference.moves is None else difference.moves._asdict(),
        "changes": [change._asdict() for change in difference.changes],
        "example": difference.example,
    }


def _side(answer: RegionResult) -> dict[str, Any]:
    route = answer.route
    position = route.position if route is not None else None
    return {
        "route": None if route is None else route.name,
        "line": None if position is None else position.line,
        "code": answer.code or None,
        "who": callers_in_words(route, answer.code),
    }


def _reach(reach: Reach) -> dict[str, Any]:
    return {"kind": reach.kind, "callers": [_kind_of_caller(each) for each in reach.callers]}


def _kind_of_caller(each: CallerKind) -> dict[str, Any]:
    if each.anonymous:
        return {"anonymous": True}
    who: dict[str, Any] = {"roles": sorted(each.roles)} if each.owner is None else {"owner_of_segment": each.owner}
    facts = {
        "credential": each.credential,
        "older_than": each.older_than,
        "unverified": each.unverified or None,
        "foreign_page": each.foreign_page or None,
    }
    return who | {name: value for name, value in facts.items() if value is not None}


def _kind(difference: Difference) -> str:
    if difference.opens:
        return "opens"
    return "closes" if difference.closes else "moves" if difference.moves else "changes"


def _place(difference: Difference) -> str:
    host = {"*": "(other hosts) ", None: ""}.get(difference.host, difference.host)
    return f"{methods(difference.methods, difference.except_methods)} {host}{difference.path}"


def _example(difference: Difference) -> str:
    host = difference.host if difference.host not in ("*", None) else ""
    known = [name for name in difference.methods or () if name not in difference.except_methods]
    usual = [name for name in ("GET", "POST", "PUT", "DELETE", "PATCH") if name not in difference.except_methods]
    return f"{(known or usual or ['QUERY'])[0]} {host}{difference.example}"


def _rule(answer: RegionResult) -> str:
    route = answer.route
    who = callers_in_words(route, answer.code)
    if route is None:
        return who
    place = f" in line {route.position.line}" if route.position is not None else ""
    return f"{who}, by route '{route.name}'{place}"


def _callers(callers: tuple[CallerKind, ...], difference: Difference) -> str:
    return "; ".join(caller(each, difference.new.route, difference.old.route) for each in callers)


def _handling(difference: Difference) -> Iterator[PolicyChange]:
    if difference.moves is not None:
        yield difference.moves
    yield from difference.changes


def _notes(found: PolicyDiff) -> Iterator[tuple[str, str]]:
    if found.opened_paths:
        yield "opens", _OPENED_PATHS
    if found.closed_paths:
        yield "closes", _CLOSED_PATHS
    if found.opened_hosts:
        yield "opens", f"server.hosts: {', '.join(found.opened_hosts)}"
    if found.closed_hosts:
        yield "closes", f"server.hosts: {', '.join(found.closed_hosts)}"
    for change in found.upstreams:
        yield "moves", f"upstream {change.key}: {change.old} -> {change.new}"


def _summary(found: PolicyDiff) -> str:
    counts = {
        "opens": sum(bool(each.opens) for each in found.differences) + found.opened_paths + bool(found.opened_hosts),
        "closes": sum(bool(each.closes) for each in found.differences) + found.closed_paths + bool(found.closed_hosts),
        "moves": sum(each.moves is not None for each in found.differences),
        "changes": sum(bool(each.changes) for each in found.differences),
    }
    parts = [f"{kind} {count}" for kind, count in counts.items() if count]
    if not parts:
        return "no difference for requests" if found.upstreams or found.also else "no difference"
    return ", ".join(parts)


def _escaped(text: str) -> str:
    """Escape Markdown's special characters."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|" else letter for letter in text)


Format = Literal["text", "markdown", "json"]


@click.command("diff")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
    help="markdown suits a review comment.",
)
@json_option
def command(old: Path, new: Path, form: Format, as_json: bool) -> int:
    """Show which access a change of the configuration opens or closes.

    OLD and NEW are two configuration files. The comparison covers every request and every kind of caller, without
    sampling. Exit code 1 if the change opens access for any kind of caller.
    """
    before, after = loaded_policy(old), loaded_policy(new)
    found = compare(before, after)
    if as_json or form == "json":
        print_json(json_of(found, before, after))
    elif form == "markdown":
        click.echo(as_markdown(found))
    else:
        show(found)
    return NO if found.opens else FINE
