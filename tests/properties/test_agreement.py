"""All decision procedures agree: a sample; `python -m tests.properties.agreement --live` compares 100,000 requests."""

from pathlib import Path

import pytest

from tests.properties.agreement import PEOPLE, Agreement, compare
from tests.properties.agreement_faces import Faces
from tests.properties.agreement_live import Live

IN_PROCESS = {"decide", "explain", "reference", "test", "matrix", "gate", "verify"}


@pytest.mark.parametrize("seed", range(1, 13))
def test_explain_test_matrix_gate_verify_and_a_naive_reference_agree(seed: int) -> None:
    agreement = Agreement()
    compare(seed, 100, agreement)
    assert agreement.differences == []
    assert agreement.pairs == 100
    assert 10 < agreement.allowed < 90, "the sample says something about both"
    assert set(agreement.asked) == IN_PROCESS
    assert min(agreement.asked.values()) >= 15, agreement.asked


@pytest.mark.parametrize("seed", [3, 8])
def test_the_running_proxy_agrees(tmp_path: Path, seed: int) -> None:
    agreement = Agreement()
    with Live(tmp_path, PEOPLE) as live:
        compare(seed, 100, agreement, live)
    assert agreement.differences == []
    assert agreement.asked["proxy"] > 80


def test_a_face_that_decides_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faces, "by_gate", lambda *_, **__: "allowed open")
    agreement = Agreement()
    compare(1, 50, agreement)
    assert agreement.differences
    assert all("gate says 'allowed open'" in each for each in agreement.differences)
