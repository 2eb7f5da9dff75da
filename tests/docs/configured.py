"""A configuration of a page with its policy tests, as a reader would check them."""

from pathlib import Path

import yaml

from tests.cli.running import run_here
from tests.test_docs import missing_upstreams


def passes(configuration: str, tests: str, folder: Path, *options: str) -> None:
    """`gateway check` with `options` accepts the configuration, and `gateway test` passes with each route touched."""
    upstreams = missing_upstreams(yaml.safe_load(configuration))
    (folder / "gateway.yaml").write_text(configuration + upstreams)
    (folder / "policy-tests.yaml").write_text(tests)
    checked = run_here("check", *options, folder=folder)
    assert checked.code == 0, checked
    tested = run_here("test", "policy-tests.yaml", "--min-coverage", "100", folder=folder)
    assert tested.code == 0, tested.out + tested.err
