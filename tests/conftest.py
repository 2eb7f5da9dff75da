"""Registers the fixtures of tests/support, which has one file per kind of real server.

The other hooks keep the suite fast: it starts a gateway hundreds of times, and mostly waits for it.
"""

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

import gateway
from tests.support.scale import scaled

pytest_plugins = [
    "tests.support.valkey",
    "tests.support.postgres",
    "tests.support.upstreams",
    "tests.support.gateways",
    "tests.support.smtp",
    "tests.support.statements",
]

# Without stored bytecode every started gateway compiles its modules again, which takes longer than the rest of its
# startup.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell starts its background jobs with SIGINT ignored, and the programs that the tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the duration of an example depends on the load of the machine, and no property tests it. Properties of
# accepted paths filter most examples, which is too many for a health check in some runs.
_UNCHECKED = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much]
hypothesis.settings.register_profile("suite", deadline=None, max_examples=scaled(100), suppress_health_check=_UNCHECKED)
hypothesis.settings.load_profile("suite")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The meaning of `-n auto`: three times the number of cores, because tests of real servers wait for most of their
    time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 3 * cores


# The files that take 15 seconds or more on two cores, in the order of their time; the first three take minutes in CI. A
# long file that starts last would run alone at the end.
_LONGEST = (
    "tests/soak/test_soak.py",
    "tests/fuzz/test_requests.py",
    "tests/fuzz/test_responses.py",
    "tests/server/test_workers.py",
    "tests/journeys/test_lasting.py",
    "tests/installation/test_native_build.py",
    "tests/storage/test_database.py",
    "tests/storage/redis/test_refusals.py",
    "tests/storage/test_postgresql.py",
    "tests/accounts/mail/test_links.py",
    "tests/observability/test_tracing.py",
    "tests/storage/test_schema.py",
    "tests/proxy/test_upstream_faults.py",
    "tests/journeys/test_outages.py",
    "tests/server/test_starting.py",
    "tests/proxy/upstreams/test_keep_alive.py",
    "tests/bench/test_bench.py",
    "tests/storage/test_process_lock.py",
    "tests/proxy/upstreams/test_upstream.py",
    "tests/journeys/test_browser_sessions.py",
    "tests/proxy/test_callers.py",
    "tests/storage/redis/test_feed_lag.py",
    "tests/journeys/test_faults.py",
    "tests/proxy/test_connections.py",
    "tests/memory/test_attacks.py",
    "tests/proxy/upstreams/test_hostile.py",
    "tests/proxy/upstreams/test_fairness.py",
    "tests/server/test_reload.py",
    "tests/accounts/mail/test_outages.py",
    "tests/api/pages/test_accessibility.py",
    "tests/websocket/autobahn/test_autobahn.py",
    "tests/gate/forward_auth/test_front_proxies.py",
    "tests/memory/test_cycles.py",
    "tests/memory/test_reloads.py",
    "tests/server/test_containers.py",
    "tests/accounts/test_flood.py",
    "tests/api/console/test_browser.py",
    "tests/proxy/test_back_pressure.py",
    "tests/server/test_draining.py",
    "tests/api/test_api_keys.py",
    "tests/api/openapi/test_conformance.py",
    "tests/storage/redis/test_deployments.py",
    "tests/accounts/mail/test_sender.py",
    "tests/journeys/test_redis_failover.py",
    "tests/websocket/test_goodbye.py",
    "tests/docs/test_start.py",
    "tests/api/test_accounts.py",
    "tests/server/asgi/test_message_ends.py",
    "tests/server/test_slow_uploads.py",
    "tests/cli/test_top.py",
    "tests/gate/test_forged_requests_in_chromium.py",
    "tests/analysis/test_conditions.py",
    "tests/server/test_tls.py",
    "tests/journeys/test_journey.py",
    "tests/gate/test_rate_limits_of_routes.py",
    "tests/api/console/test_many_routes.py",
    "tests/gate/test_forged_requests.py",
    "tests/proxy/test_responses.py",
    "tests/api/test_endpoint_refusals.py",
    "tests/examples/test_examples.py",
    "tests/analysis/envoy/test_envoy.py",
    "tests/cli/demo/test_command.py",
    "tests/journeys/test_session_ends.py",
    "tests/proxy/upstreams/test_early_answers.py",
    "tests/cli/test_bad_input.py",
    "tests/storage/test_sessions.py",
    "tests/advisories/test_paths.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Reject compiled modules of an older source, whose results say nothing about the source. Disable the order of
    xdist, which starts files with few tests last."""
    if changed := gateway.outdated():
        raise pytest.UsageError(f"changed after make native: {', '.join(changed)}; make native, or make interpreted")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a worker of xdist, start the longest files first, then the files with the most tests."""
    if hasattr(config, "workerinput"):
        files = [item.nodeid.partition("::")[0] for item in items]
        tests = Counter(files)
        rank = {file: place for place, file in enumerate(_LONGEST)}
        order = sorted(range(len(items)), key=lambda at: (rank.get(files[at], len(rank)), -tests[files[at]], files[at]))
        items[:] = [items[at] for at in order]


def _import_tests(config: pytest.Config, workers: dict[str, int | str]) -> None:
    """Import the files of tests, on each worker from another place on. In a new checkout each worker then compiles a
    part of them, and finds the bytecode of the others."""
    files: list[Path] = []
    for argument in config.args:
        path = config.invocation_params.dir / argument.partition("::")[0]
        files += sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    start = len(files) * int(str(workers["workerid"]).removeprefix("gw")) // int(workers["workercount"])
    for file in files[start:] + files[:start]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # the collection imports it again, and reports
            importlib.import_module(".".join(file.resolve().relative_to(config.rootpath).with_suffix("").parts))


@pytest.fixture(scope="module", autouse=True)
def _collected_garbage() -> Iterator[None]:
    """Collect the garbage of a file at its end, so that a resource left open fails this file and not a later one. The
    objects that remain belong to the session, so the next collections leave them out."""
    yield
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Exclude collected tests from garbage collection. Twelve thousand tests are a million permanent objects: scanning
    them slows the collection, and later disturbs time measurements by half a second."""
    gc.disable()
    try:
        if (workers := getattr(session.config, "workerinput", None)) is not None:
            _import_tests(session.config, workers)
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
