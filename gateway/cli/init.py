"""`gateway init`: write a first configuration and its policy tests."""

import json
import re
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click

from gateway.analysis.lint import lint
from gateway.cli.output import say
from gateway.errors import CannotStart, ConfigurationError
from gateway.policy.loader import load_configuration
from gateway.wire.addresses import is_loopback_host

CONFIGURATION: Final = "gateway.yaml"
POLICY_TESTS: Final = "policy-tests.yaml"

_UPSTREAM: Final = "http://127.0.0.1:9000"
_PUBLIC: Final = ("/public/**",)
_ADMIN: Final = ("/admin/**",)

_ALL: Final = "/**"
_NONE: Final = "none"
_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9/._~*{}:>@+=&%?-]*(?: [A-Za-z0-9/._~*{}>-]+)*").fullmatch

_SECTIONS: Final = """\
# Check this file with 'gateway check --strict' and 'gateway test {tests}'. 'gateway serve' runs it.
# A comment `gateway: allow NAME` confirms a choice that the strict check warns of otherwise.

server:
  host: 127.0.0.1 # behind a load balancer or in a container: 0.0.0.0, and list the names of your site in `hosts`
  port: {port}

storage:
  database: ${{DATABASE_URL:-sqlite:///gateway.db}} # with several replicas: postgresql://user:password@host/gateway

accounts:
  registration: {registration}{allowed}
  default_roles: [user]
  # pages: {{name: Example}} # pages to sign in; they need `sessions: {{}}` and `server.public_url: http://localhost:8000`

roles:
  admin: [user] # an admin passes every check for user
  user: []

upstreams:
  app: {upstream}

# The most specific path decides. A path without a route is 404.
routes:
"""


@click.command("init")
@click.option("--upstream", metavar="URL", help=f"The address of your application. Default: {_UPSTREAM}")
@click.option(
    "--public",
    metavar="PATH",
    multiple=True,
    help="A path for everyone, without signing in; with /** at its end also everything below. Repeatable, or none.",
)
@click.option(
    "--admin",
    metavar="PATH",
    multiple=True,
    help="A path for administrators only, with everything below it. Repeatable, or none.",
)
@click.option("--closed", is_flag=True, help="Only administrators create accounts.")
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The folder of the files. Default: the current one.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
def command(
    upstream: str | None, public: tuple[str, ...], admin: tuple[str, ...], closed: bool, out: Path, force: bool
) -> None:
    """Write a first configuration and its policy tests.

    Writes gateway.yaml and policy-tests.yaml. Asks three questions at a terminal, each with a default; options
    answer them in advance. All other paths require a signed-in user.
    """
    if not force:
        _require_absent(out / CONFIGURATION, out / POLICY_TESTS)
    address = upstream or _ask("The address of your application", _UPSTREAM, lambda answer: _check(answer, (), ()))
    public = _paths(
        public,
        "Paths for everyone, separated by spaces; /** at the end includes everything below (or none)",
        _PUBLIC,
        lambda paths: _check(address, paths, ()),
    )
    admin = _paths(
        admin,
        "Paths for administrators only, with everything below them (or none)",
        _ADMIN,
        lambda paths: _check(address, public, paths),
    )
    _check(address, public, admin)
    admin = _with_everything_below(admin)
    _write(out, configuration_text(address, public, admin, closed=closed), policy_tests_text(public, admin))
    chosen = "" if out == Path() else f" --config {out / CONFIGURATION}"
    say(f"Wrote {out / CONFIGURATION} and {out / POLICY_TESTS}. Next:")
    say()
    say(f"  gateway check --strict{chosen}")
    say(f"  gateway test {out / POLICY_TESTS}{chosen}")
    say(f"  gateway users create you@example.com --role admin{chosen}")
    say(f"  gateway serve{chosen}")
    for warning in lint(load_configuration(out / CONFIGURATION)):
        say()
        say(f"The strict check will warn: {warning}")


def configuration_text(upstream: str, public: tuple[str, ...], admin: tuple[str, ...], *, closed: bool) -> str:
    """The configuration file."""
    text = _SECTIONS.format(
        tests=POLICY_TESTS,
        port=_port(upstream),
        upstream=_scalar(upstream),
        registration="closed" if closed else "open",
        allowed="" if closed else " # gateway: allow open-registration # everyone can create an account",
    )
    routes = [_route(path, "auth: none") for path in public]
    routes += [_route(path, "roles: [admin]") for path in admin]
    if _ALL not in (*public, *admin):
        routes.append(_route(_ALL, "auth: required", "" if closed else ", open-registration"))
    return text + "\n".join(routes)


def _route(path: str, rule: str, more: str = "") -> str:
    allowed = f" # gateway: allow own-paths-hide{more}" if path == _ALL else ""
    return f"  - path: {_scalar(path)}{allowed}\n    {rule}\n    upstream: app\n"


def policy_tests_text(public: tuple[str, ...], admin: tuple[str, ...]) -> str:
    """The tests of the configuration, for `gateway test`."""
    rest = [] if _ALL in (*public, *admin) else ["/any/other/path"]
    segments = {segment for path in (*public, *admin) for segment in path.split("/")}
    placeholder = next(name for size in count(1) if (name := "x" * size) not in segments)
    open_paths, admin_paths = ([_example(path, placeholder) for path in paths] for paths in (public, admin))
    groups = (
        _group("everyone reads public paths", "anonymous", open_paths, "401", [*admin_paths, *rest]),
        _group("users cannot reach the paths of administrators", "{roles: [user]}", rest, "403", admin_paths),
        _group("administrators reach everything", "{roles: [admin]}", [*admin_paths, *rest], "", []),
    )
    head = f"# The decisions that {CONFIGURATION} must make. Run 'gateway test {POLICY_TESTS}' with every change.\n\n"
    return head + "\n".join(group for group in groups if group)


def _group(name: str, who: str, allowed: list[str], status: str, denied: list[str]) -> str:
    if not allowed and not denied:
        return ""
    lines = [f"- name: {name}", f"  as: {who}"]
    if allowed:
        lines += ["  allow:", *(f"    - {_scalar(f'GET {path}')}" for path in allowed)]
    if denied:
        lines += ["  deny:", *(f"    - {_scalar(f'GET {path} -> {status}')}" for path in denied)]
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """A YAML scalar, with quotes only if they are necessary."""
    return text if _PLAIN(text) else json.dumps(text)


def _example(path: str, placeholder: str) -> str:
    """A request path that the pattern matches."""
    segments = [
        placeholder if segment in ("*", "**") or segment.startswith("{") else segment for segment in path.split("/")
    ]
    return quote("/".join(segments), safe="/%")


def _with_everything_below(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns of whole sections. Without `/**`, `/admin/users` would be a path for any signed-in user."""
    return tuple(path if path.endswith(_ALL) else path.rstrip("/") + _ALL for path in paths)


def _paths(
    options: tuple[str, ...],
    question: str,
    default: tuple[str, ...],
    check: Callable[[tuple[str, ...]], None],
) -> tuple[str, ...]:
    """The paths of the options, or of the answer to a question. `none` is no path."""
    if options:
        return () if options == (_NONE,) else options
    return _split(_ask(question, " ".join(default), lambda answer: check(_split(answer))))


def _split(answer: str) -> tuple[str, ...]:
    return () if answer.strip().lower() == _NONE else tuple(answer.replace(",", " ").split())


def _ask(question: str, default: str, check: Callable[[str], None]) -> str:
    """The answer of the person at the terminal, asked again while `check` raises CannotStart. Scripts get the
    default."""
    if not sys.stdin.isatty():
        return default

    def checked(answer: str) -> str:
        try:
            check(answer)
        except CannotStart as error:
            raise click.UsageError(str(error)) from None
        return answer

    answer: str = click.prompt(question, default=default, err=True, value_proc=checked)
    return answer


def _port(upstream: str) -> int:
    """The port of the gateway. uvicorn and Django listen on 8000 of this machine too, and the gateway would forward its
    requests to itself."""
    on_8000 = re.fullmatch(r"http://(.+):8000(?:/.*)?", upstream, re.IGNORECASE)
    return 8080 if on_8000 is not None and is_loopback_host(on_8000[1].strip("[]")) else 8000


def _require_absent(*files: Path) -> None:
    present = next((file for file in files if file.exists()), None)
    if present is not None:
        raise CannotStart(f"{present} exists already; choose another folder with --out, or replace it with --force")


def _write(folder: Path, configuration: str, policy_tests: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIGURATION).write_text(configuration, encoding="utf-8")
        (folder / POLICY_TESTS).write_text(policy_tests, encoding="utf-8")
    except OSError as error:
        raise CannotStart(f"{error.filename}: {error.strerror}; choose a writable folder with --out") from None


def _check(upstream: str, public: tuple[str, ...], admin: tuple[str, ...]) -> None:
    """Raise CannotStart if the answers do not make a valid configuration."""
    both = next((path for path in public if path in admin), None)
    if both is not None:
        raise CannotStart(f"these answers do not work: {both} is for everyone and for administrators only")
    text = configuration_text(upstream, public, _with_everything_below(admin), closed=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / CONFIGURATION
        file.write_text(text, encoding="utf-8")
        try:
            load_configuration(file)
        except ConfigurationError as error:
            problem = error.problems[0]
            raise CannotStart(f"these answers do not work: {problem.key} {problem.message}") from None
