"""Command output in docs/ is the real output."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from gateway.settings.checks import WARNINGS
from tests.cli.running import ROOT, run_here
from tests.test_docs import Fence, fences

EXAMPLES = ROOT / "docs/examples"
SHOWN = [fence for fence in fences(ROOT / "docs/policy-changes.md") if fence.language == "console"]


@pytest.mark.parametrize("fence", SHOWN, ids=str)
def test_the_output_that_is_shown_is_the_real_one(fence: Fence, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    command, _, output = fence.text.partition("\n")
    assert command.startswith("$ gateway ")
    words = shlex.split(re.sub(r" +#.*", "", command.removeprefix("$ gateway ")))
    outcome = run_here(*words, folder=tmp_path / "examples")
    assert outcome.out + outcome.err == output


def test_the_documented_warnings_are_the_ones_there_are() -> None:
    text = (ROOT / "docs/warnings.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", text, re.MULTILINE)) == dict(WARNINGS)
