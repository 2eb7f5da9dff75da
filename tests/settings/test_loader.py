"""Reading a file into a draft: unreadable files, the usable parts of files with problems, and the duration."""

import gc
import os
import time
from pathlib import Path

import pytest

from gateway.errors import CannotStart
from gateway.settings import loader
from gateway.settings.loader import read_content, read_settings
from gateway.settings.model import Position, Settings
from tests.settings.reading import draft_of, settings_of

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_that_is_not_there_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(CannotStart) as error:
        read_settings(tmp_path / "gateway.yaml", {})

    assert str(error.value) == f"cannot read the configuration {tmp_path}/gateway.yaml: No such file or directory"


def test_a_folder_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="Is a directory"):
        read_settings(tmp_path, {})


def test_a_file_without_end_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "LARGEST_FILE", 1 << 20)
    with pytest.raises(CannotStart, match="the configuration /dev/zero is larger than 1MiB"):
        read_settings(Path("/dev/zero"), {})


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    # `--config <(generate)`: a shell creates a pipe.
    reading_end, writing_end = os.pipe()
    os.write(writing_end, b"server: {port: 81}")
    os.close(writing_end)

    settings = read_settings(Path(f"/dev/fd/{reading_end}"), {}).settings
    os.close(reading_end)

    assert settings is not None
    assert settings.server.port == 81


def test_the_example_has_neither_problems_nor_warnings() -> None:
    draft = read_settings(ROOT / "config/gateway.yaml", {})

    assert (draft.problems, draft.warnings) == ((), ())


def test_the_example_runs_in_production_by_its_environment_alone() -> None:
    environment = {
        "DATABASE_URL": "postgresql://app:secret@db/app",
        "REDIS_URL": "redis://redis:6379/0",
        "GATEWAY_WORKERS": "4",
        "GATEWAY_HOST": "0.0.0.0",
        "ORDERS_URL": "https://orders.internal",
    }
    settings = read_settings(ROOT / "config/gateway.yaml", environment).settings

    assert settings is not None
    assert (settings.server.workers, settings.server.host) == (4, "0.0.0.0")
    assert settings.upstreams["orders"].targets == ("https://orders.internal",)


ROUTES = """
upstreams: {web: 'http://h'}
server: {port: x}
routes:
  - {path: /sound, upstream: web}
  - {path: /limited, upstream: web, max_body: 3 apples}
  - {path: /misspelt, upstream: web, rolls: [a]}
  - {path: /nowhere, upstream: wbe}
  - {path: bad, upstream: web}
  - {path: /methods, upstream: web, methods: [get]}
  - {path: /host, upstream: web, host: '*'}
  - {upstream: web}
  - {path: /none}
  - 7
  - {path: /last, upstream: web}
"""


def test_routes_that_may_be_compared_are_kept_and_know_their_place() -> None:
    draft = draft_of(ROUTES)

    assert [route.path for route in draft.routes] == ["/sound", "/limited", "/misspelt", "/nowhere", "/last"]
    assert [route.key for route in draft.routes] == [f"routes[{number}]" for number in (0, 1, 2, 3, 10)]
    assert draft.routes[-1].position == Position("gateway.yaml", 14, 5)


def test_a_file_with_problems_has_a_sketch_and_no_settings() -> None:
    draft = draft_of("server: {port: x, workers: 1}\naccounts: {prefix: /me}\n")

    assert draft.settings is None
    assert (draft.sketch.server.port, draft.sketch.accounts.prefix) == (8000, "/me")


def test_a_file_that_is_no_yaml_has_a_sketch_of_defaults() -> None:
    assert draft_of("server: {").sketch == Settings()


def test_a_sound_file_s_sketch_is_its_settings() -> None:
    draft = draft_of("server: {}")

    assert draft.sketch is draft.settings


PLACES = [
    ("server", 1, 9),
    ("server.port", 1, 16),
    ("server.host", 1, 9),
    ("upstreams", 3, 3),
    ("upstreams.web", 3, 8),
    ("upstreams.web.targets", 3, 8),
    ("upstreams.my.own.targets[1]", 5, 18),
    ("upstreams.my.own.tls.verify", 5, 5),
    ("routes[0]", 7, 5),
    ("routes[0].path", 7, 11),
    ("routes[0].roles", 8, 12),
    ("routes[0].roles[1]", 8, 16),
    ("routes[0].roles[9]", 8, 12),
    ("routes[0].upstream", 7, 5),
    ("routes[1].roles.all[0]", 10, 19),
    ("routes[1].roles.all[1]", 11, 10),
    ("routes[1].cors.origins", 9, 5),
    ("routes[2]", 12, 5),
    ("routes[3]", 7, 3),
    ("routes", 7, 3),
    ("tokens.keys[4].kid", 1, 1),
    ("", 1, 1),
]


@pytest.mark.parametrize(("key", "line", "column"), PLACES)
def test_every_value_has_a_position_and_a_default_that_of_its_parent(key: str, line: int, column: int) -> None:
    text = (
        "server: {port: 81}\n"
        "upstreams:\n"
        "  web: http://h\n"
        "  my.own:\n"
        "    targets: [a, b]\n"
        "routes:\n"
        "  - path: /a\n"
        "    roles: [a, b]\n"
        "  - path: /b\n"
        "    roles: {all: [a,\n"
        "         b]}\n"
        "  - path: /c\n"
    )
    found = draft_of(text).sketch.position_of(key)

    assert found == Position("gateway.yaml", line, column)


def test_a_list_longer_than_the_position_table_has_the_position_of_the_list() -> None:
    many = ", ".join(f"M{number}" for number in range(70_000))
    settings = settings_of(
        f"upstreams: {{web: 'http://h'}}\nroutes:\n- {{path: /a, upstream: web, methods: [{many}]}}\n"
    )

    assert settings.position_of("routes[0].methods[10]").column > 40
    assert settings.position_of("routes[0].methods[69999]") == settings.position_of("routes[0].methods")


def test_the_written_keys_are_known() -> None:
    settings = settings_of("server: {port: 81}\nupstreams: {web: {targets: ['http://h'], retries: 1}}\n")

    assert settings.written == {
        "server",
        "server.port",
        "upstreams",
        "upstreams.web",
        "upstreams.web.targets",
        "upstreams.web.targets[0]",
        "upstreams.web.retries",
    }


def many_routes(count: int) -> bytes:
    lines = ["upstreams: {web: 'http://h', orders: 'http://o'}", "roles: {admin: [user], user: []}", "routes:"]
    for number in range(count):
        lines.append(f"  - path: /service{number % 100}/thing{number}/{{id}}")
        lines.append(f"    upstream: {'web' if number % 4 else 'orders'}")
        lines += ["    roles: [user, admin]"] if number % 2 else ["    owner: id"]
        lines += ["    methods: [GET, POST]"] if number % 3 else []
    return "\n".join(lines).encode()


def seconds_to_read(count: int) -> float:
    content = many_routes(count)
    started = time.process_time()
    draft = read_content(content, "f", {})
    assert len(draft.routes) == count
    return time.process_time() - started


def test_ten_thousand_routes_are_read_quickly() -> None:
    # Half a second on the original machine. The bound leaves room for slow, busy or traced machines.
    assert seconds_to_read(10_000) < 4


def test_each_route_costs_the_same_however_many_there_are() -> None:
    gc.disable()  # it would scan the objects of all other tests at arbitrary moments
    try:
        few = min(seconds_to_read(400) for _ in range(5))
        many = min(seconds_to_read(4_000) for _ in range(2))
    finally:
        gc.enable()

    assert many < 30 * few


def test_the_parsed_yaml_is_dropped() -> None:
    draft = read_content(many_routes(100), "f", {})
    gc.collect()

    assert draft.settings is not None
    assert not any(type(each).__module__ == "gateway.settings.yaml" for each in gc.get_objects())
