"""The figures for large policies: the measurement is correct. Their values are not tested."""

from pathlib import Path

import pytest

from bench.policy import Figure, best, configuration_text, log_lines
from gateway.analysis.diff import compare
from gateway.analysis.replay import Replay
from gateway.policy.loader import load_configuration


def test_the_files_have_so_many_routes_and_differ_in_every_one(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(configuration_text(200))
    (tmp_path / "new.yaml").write_text(configuration_text(200, upstream="api", role="admin"))
    old, new = (load_configuration(tmp_path / name, {}) for name in ("old.yaml", "new.yaml"))
    assert len(old.settings.routes) == 200
    assert len(compare(old, new).differences) == 200


def test_every_line_of_the_log_is_decided_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(configuration_text(200))
    replay = Replay(load_configuration(tmp_path / "old.yaml", {}))
    for line in log_lines(500, routes=200):
        replay.line(line)
    assert (replay.report.replayed, replay.report.changed, replay.report.lost) == (500, 0, 0)


@pytest.mark.parametrize(
    ("figure", "holds", "text"),
    [
        (Figure("load", 1.5, "s", 2.0), True, "<= 2.0  kept"),
        (Figure("load", 2.5, "s", 2.0), False, "<= 2.0  MISSED"),
        (Figure("replay", 60_000, "lines/s", 50_000, at_least=True), True, ">= 50,000.0  kept"),
        (Figure("replay", 40_000, "lines/s", 50_000, at_least=True), False, ">= 50,000.0  MISSED"),
        (Figure("version", 0.1, "s"), True, "0.10 s"),
    ],
)
def test_a_figure_shows_whether_its_limit_is_kept(figure: Figure, holds: bool, text: str) -> None:
    assert figure.holds == holds
    assert str(figure).endswith(text)


def test_the_best_round_counts() -> None:
    rounds = iter((50_000, 1, 50_000))
    assert best(lambda: sum(range(next(rounds)))) < 0.01
