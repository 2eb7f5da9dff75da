"""Fixtures live in tests/support, one file for each kind of real server; this file only names them.

The rest is what keeps the whole suite quick: it starts a gateway hundreds of times, and mostly waits for it.
"""

import gc
import os
import sys
from collections import Counter
from collections.abc import Generator

import hypothesis
import pytest

pytest_plugins = [
    "tests.support.valkey",
    "tests.support.postgres",
    "tests.support.upstreams",
    "tests.support.gateways",
]

# Without stored bytecode every gateway that is started compiles all of it anew, which takes more than all its other
# work at the start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Without a bound on how long an example takes: it says how busy the machine is, and no property is about that.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: one more than there are cores, as tests of real servers wait for a third of their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


# Files whose tests run for a fixed time, set by the environment (docs/testing.md).
_TIMED = ("tests/soak/test_soak.py", "tests/fuzz/test_requests.py", "tests/fuzz/test_responses.py")


def pytest_configure(config: pytest.Config) -> None:
    """xdist starts files with few tests last. Files that take a minute would then run alone at the end."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a worker of xdist, start the timed files first, then the files with the most tests."""
    if hasattr(config, "workerinput"):
        files = [item.nodeid.partition("::")[0] for item in items]
        tests = Counter(files)
        order = sorted(range(len(items)), key=lambda at: (files[at] not in _TIMED, -tests[files[at]], files[at]))
        items[:] = [items[at] for at in order]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Twelve thousand tests are a million objects, all of which stay: the garbage collector does not go through them,
    neither again and again while they are made nor later, for half a second amid what measures times."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
