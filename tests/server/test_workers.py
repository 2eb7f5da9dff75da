"""Several workers behind one address: served, changed and stopped as one, and replaced when one dies."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.stores.valkey import ValkeyServer
from tests.server.changing import configuration_of, reload, with_route
from tests.support import launcher
from tests.support.fleet import OK, Fleet, Served
from tests.support.gateways import unhandled
from tests.support.load import Load
from tests.support.processes import Gateway, write_configuration
from tests.support.raw import NoAnswer
from tests.support.small import Patched, Start, metric, small
from tests.support.waiting import eventually, promised, within
from tests.support.wording import request

GET = request("/web/x")
WEB = "/web/**"
StartWorkers = Callable[..., Gateway]


@pytest.fixture
def start_workers(start: Start, fleet: Fleet, lasting_valkey: ValkeyServer) -> Iterator[StartWorkers]:
    """Starts a gateway with two workers over its own Redis."""
    started: list[Gateway] = []

    def run(**options: Any) -> Gateway:
        server = {"workers": 2, **options.pop("server", {})}
        gateway = start({"web": fleet.urls}, server=server, storage={"redis": lasting_valkey.url}, **options)
        started.append(gateway)
        eventually(lambda: len(workers_of(gateway)) == 2)
        return gateway

    yield run
    for gateway in started:
        kill(gateway)


@pytest.fixture(scope="module")
def shared(lasting_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with two workers for the tests that stop neither of them."""
    fleet, folder = Fleet("a"), tmp_path_factory.mktemp("shared")
    configuration = small(
        folder,
        {"web": fleet.urls},
        server={"workers": 2},
        storage={"redis": lasting_valkey.url},
        routes=[{"path": "/users/**", "upstream": "web"}],
    )
    gateway = Gateway("serve", configuration, folder).start()
    eventually(lambda: all_serve(gateway), timeout=20, every=0.1)
    yield gateway
    kill(gateway)
    assert not unhandled(gateway), unhandled(gateway)[0]
    fleet.stop()


def kill(gateway: Gateway) -> None:
    """Kill a gateway with its workers. By themselves they would notice and drain, which another test covers."""
    workers = workers_of(gateway) if gateway.running else []
    gateway.kill()
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
            worker.wait(10)


def workers_of(gateway: Gateway) -> list[psutil.Process]:
    assert gateway.process is not None
    children: list[psutil.Process] = psutil.Process(gateway.process.pid).children()
    return children


def connections(worker: psutil.Process, port: int) -> int:
    """The number of client connections of a worker."""
    found = worker.net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in found)


def all_serve(gateway: Gateway) -> bool:
    """Whether every worker accepts connections."""
    callers = [gateway.caller() for _ in range(40)]
    try:
        for caller in callers:
            assert caller.send(GET).receive().status == 200
        return all(connections(worker, gateway.address[1]) > 0 for worker in workers_of(gateway))
    finally:
        for caller in callers:
            caller.close()


def statuses(gateway: Gateway, path: str, count: int = 40) -> set[int]:
    """The statuses of this many new connections, enough to reach every worker."""
    return {gateway.get(path).status for _ in range(count)}


def one_worker_kills(gateway: Gateway) -> psutil.Process:
    worker = workers_of(gateway)[0]
    worker.kill()
    return worker


def replaced(gateway: Gateway, dead: psutil.Process) -> None:
    eventually(lambda: len(workers_of(gateway)) == 2 and dead.pid not in {one.pid for one in workers_of(gateway)})
    eventually(lambda: all_serve(gateway), timeout=20, every=0.05)


# ---- as one


def test_all_workers_serve_and_report_their_own_process(shared: Gateway) -> None:
    assert shared.log().count("listening on http://") == 1
    for path in ("/_gateway/health", "/_gateway/ready", "/_gateway/metrics", "/web/x"):
        assert statuses(shared, path) == {200}


def test_a_change_at_one_worker_is_seen_by_the_other(shared: Gateway) -> None:
    account = shared.newcomer()
    for _ in range(20):
        assert shared.get("/users/x", account.line).status == 200
    assert shared.ask(request("/auth/logout", method="POST", fields=[account.line])).status == 204
    refused = (401, "token_revoked")
    eventually(lambda: all(shared.get("/users/x", account.line).refused() == refused for _ in range(20)))


def test_every_worker_reports_the_metrics_of_all_and_a_death_loses_none(start_workers: StartWorkers) -> None:
    gateway = start_workers()
    eventually(lambda: all_serve(gateway))
    before = metric(gateway, "gateway_requests_total", route=WEB)
    for _ in range(40):  # new connections: each worker gets some of them
        gateway.get("/web/x")
    totals = [metric(gateway, "gateway_requests_total", route=WEB) for _ in range(10)]
    assert set(totals) == {before + 40}
    assert metric(gateway, "gateway_workers") == 2
    dead = one_worker_kills(gateway)
    eventually(lambda: dead.pid not in {one.pid for one in workers_of(gateway)})
    assert metric(gateway, "gateway_requests_total", route=WEB) == before + 40
    replaced(gateway, dead)
    counts = [metric(gateway, "gateway_requests_total", route=WEB) for _ in range(10)]
    assert min(counts) >= before + 40
    assert len(set(counts)) == 1
    assert metric(gateway, "gateway_workers") == 2


# ---- replacement


async def test_a_worker_that_dies_is_replaced_and_the_others_go_on(start_workers: StartWorkers) -> None:
    gateway = start_workers()
    async with Load(gateway.address, lambda _: GET, callers=8, keep=False, pause=0.01) as load:
        await load.more(200)
        dead = one_worker_kills(gateway)
        await asyncio.to_thread(replaced, gateway, dead)
        await load.more(200)
    assert load.statuses == {200: len(load.answers)}
    assert len(load.lost) <= 8, "those that the dead one had"
    assert f"a worker ended; another takes its place pid={dead.pid} status=137" in gateway.log()


def test_both_may_die(start_workers: StartWorkers) -> None:
    gateway = start_workers()
    dead = workers_of(gateway)
    for worker in dead:
        worker.kill()
    eventually(lambda: len({one.pid for one in workers_of(gateway)} - {one.pid for one in dead}) == 2)
    eventually(lambda: all_serve(gateway), timeout=20, every=0.05)
    assert gateway.log().count("listening on http://") == 1


def test_a_replaced_worker_has_the_newest_configuration(start_workers: StartWorkers) -> None:
    gateway = start_workers()
    reload(gateway, with_route(configuration_of(gateway), path="/new"), times=2)
    replaced(gateway, one_worker_kills(gateway))
    assert statuses(gateway, "/new") == {200}


def test_a_replaced_worker_keeps_the_settings_that_need_a_restart(start_workers: StartWorkers, tmp_path: Path) -> None:
    """Otherwise a crash would leave two workers with different databases."""
    gateway = start_workers()
    changed = with_route(configuration_of(gateway), path="/new")
    changed["storage"]["database"] = f"sqlite:///{tmp_path / 'other.db'}"
    changed["accounts"]["prefix"] = "/elsewhere"
    log = reload(gateway, changed, times=2)
    assert log.count("storage has changed, which takes a restart") == 2
    replaced(gateway, one_worker_kills(gateway))
    assert statuses(gateway, "/new") == {200}
    assert statuses(gateway, "/auth/me") == {401}
    assert not (tmp_path / "other.db").exists()


def test_a_replacement_that_cannot_start_is_tried_again(
    start_workers: StartWorkers, lasting_valkey: ValkeyServer
) -> None:
    """The cause can be temporary, and the other worker serves all the time."""
    gateway = start_workers()
    # Of the first workers, one that cannot start ends the gateway.
    eventually(lambda: all_serve(gateway), timeout=20, every=0.05)
    database = Path(str(configuration_of(gateway)["storage"]["database"]).removeprefix("sqlite:///"))
    aside = database.with_suffix(".aside")
    database.rename(aside)
    database.mkdir()
    dead = one_worker_kills(gateway)
    eventually(lambda: gateway.log().count("a worker ended; another takes its place") >= 3, timeout=20)
    assert gateway.get("/web/x").status == 200
    assert gateway.running
    database.rmdir()
    aside.rename(database)
    replaced(gateway, dead)


# ---- changes


def test_a_reload_reaches_all_workers(shared: Gateway) -> None:
    for number in range(3):
        reload(shared, with_route(configuration_of(shared), path=f"/new-{number}"), times=2)
        assert statuses(shared, f"/new-{number}") == {200}


def test_a_reload_while_a_worker_is_still_starting_is_obeyed_then(start_workers: StartWorkers) -> None:
    """The first worker to serve confirms the reload; the other must not keep its old configuration."""
    gateway = start_workers()
    for number in range(2):
        workers_of(gateway)[0].kill()
        eventually(lambda: len(workers_of(gateway)) == 2)  # a new one has begun to start
        changed = with_route(configuration_of(gateway), path=f"/new-{number}")
        before = gateway.log().count("the new configuration is in force")
        reload(gateway, changed)
        eventually(lambda: all_serve(gateway), timeout=20, every=0.05)
        eventually(lambda path: statuses(gateway, path) == {200}, f"/new-{number}", timeout=20, every=0.05)
        assert gateway.log().count("the new configuration is in force") - before in (1, 2)


def test_a_broken_file_is_reported_once_and_changes_nothing(shared: Gateway) -> None:
    good, broken = configuration_of(shared), configuration_of(shared)
    broken["routes"][0]["upstream"] = "nowhere"
    before = len(shared.log())
    reload(shared, broken)
    assert statuses(shared, "/web/x") == {200}
    reload(shared, good, times=2)
    log = shared.log()[before:]
    assert log.count("routes[0].upstream") == 1
    assert log.index("routes[0].upstream") < log.index("in force")
    assert log.count("in force") == 2, "one for each worker, of the good file"


# ---- shutdown


async def test_a_drain_of_all_workers_fails_no_request_that_was_begun(
    start_workers: StartWorkers, fleet: Fleet
) -> None:
    fleet.behave(lambda served: served.later(0.02, lambda: served.send(OK)))
    for keep in (True, False):
        gateway = start_workers()
        workers = workers_of(gateway)
        async with Load(gateway.address, lambda _: GET, callers=24, keep=keep) as load:
            await load.more(200)
            gateway.signal()
            code = await asyncio.to_thread(gateway.wait)
        begun = load.lost_in_drain
        print(f"\n{len(load.answers)} answered by two workers, {len(begun)} of those begun lost, exit code {code}")
        assert code == 0
        assert begun == []
        assert load.statuses == {200: len(load.answers)}
        assert not any(worker.is_running() for worker in workers)


@pytest.fixture
def running(start_workers: StartWorkers, fleet: Fleet):  # type: ignore[no-untyped-def]
    """A gateway with a request in progress: `running(...)` returns the gateway, the client, and a function that answers
    it."""
    callers = []

    def begin(**options: Any):  # type: ignore[no-untyped-def]
        held: list[Served] = []
        fleet.behave(held.append)
        gateway = start_workers(**options)
        caller = gateway.caller(timeout=15)
        callers.append(caller)
        caller.send(GET)
        eventually(lambda: held)
        return gateway, caller, lambda: fleet.loop.call_soon_threadsafe(held[0].send, OK)

    yield begin
    for caller in callers:
        caller.close()


def test_clients_that_connect_during_the_drain_are_refused_at_once(running) -> None:  # type: ignore[no-untyped-def]
    """Otherwise a worker could accept them and let them wait for the end."""
    gateway, caller, answer = running()
    gateway.signal()
    eventually(lambda: _refuses(gateway))
    for _ in range(5):
        with within(promised(1.0)), pytest.raises(OSError):
            gateway.caller(timeout=1)
    answer()
    assert caller.receive().body == b"ok"
    assert gateway.wait() == 0


def _refuses(gateway: Gateway) -> bool:
    try:
        gateway.caller(timeout=1.5).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_of_them_at_once_is_a_drain_like_any_other(running, number: signal.Signals) -> None:  # type: ignore[no-untyped-def]
    """Service managers stop whole process groups, as does Ctrl-C: each worker then gets the signal twice."""
    gateway, caller, answer = running()
    pids = [gateway.process.pid, *(worker.pid for worker in workers_of(gateway))]
    for pid in pids:
        os.kill(pid, number)
    time.sleep(0.7)
    assert gateway.running
    answer()
    assert caller.receive().body == b"ok"
    assert gateway.wait() == 0


def test_a_stuck_client_is_cut_off_after_the_drain(running) -> None:  # type: ignore[no-untyped-def]
    gateway, caller, _ = running(server={"drain": "1s"})
    started = time.monotonic()
    gateway.signal()
    assert gateway.wait() == 1
    assert 0.9 < time.monotonic() - started < 5.0
    with pytest.raises(NoAnswer):
        caller.receive()


def test_a_second_signal_ends_all_at_once(running) -> None:  # type: ignore[no-untyped-def]
    gateway, _, _ = running(server={"drain": "60s"})
    workers = workers_of(gateway)
    gateway.signal()
    eventually(lambda: _refuses(gateway))
    with within(4.0):
        gateway.signal()
        assert gateway.wait() == 1
    assert not any(worker.is_running() for worker in workers)


def test_a_suspended_worker_is_killed_in_the_end(start_workers: StartWorkers) -> None:
    gateway = start_workers(server={"drain": "500ms"}, patches={"gateway.server.workers.KILL_AFTER": 1.0})
    assert isinstance(gateway, Patched)
    suspended = workers_of(gateway)[0]
    suspended.suspend()
    with within(6.0):
        gateway.signal()
        assert gateway.wait() == 1
    assert not suspended.is_running()
    assert "workers did not end in time and were killed" in gateway.log()


def test_workers_do_not_outlive_the_process_that_watches_over_them(start_workers: StartWorkers) -> None:
    """Otherwise nothing could stop them, and they would keep the address."""
    gateway = start_workers()
    workers = workers_of(gateway)
    gateway.kill()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert alive == []


def test_a_worker_that_is_stopped_alone_is_replaced_and_the_other_serves_all_clients(
    start_workers: StartWorkers,
) -> None:
    gateway = start_workers()
    stopped = workers_of(gateway)[0]
    stopped.terminate()
    for _ in range(100):
        assert gateway.get("/web/x").status == 200
    replaced(gateway, stopped)


# ---- startup


def starting(configuration: dict[str, Any], folder: Path) -> "subprocess.CompletedProcess[str]":
    return launcher.run(["-m", "gateway", "serve", "--config", str(write_configuration(folder, configuration))])


def test_workers_that_cannot_start_end_all_with_one_line_each(
    fleet: Fleet, tmp_path: Path, shared_valkey: ValkeyServer
) -> None:
    configuration = small(tmp_path, {"web": fleet.urls}, server={"workers": 2, "port": 0})
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.execute("CREATE TABLE gateway_schema (version_num TEXT)")
        database.execute("INSERT INTO gateway_schema VALUES ('9999')")
    configuration["storage"] = {"database": f"sqlite:///{tmp_path}/x.db", "redis": shared_valkey.url}
    done = starting(configuration, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("gateway: worker: ")]
    assert 1 <= len(lines) <= 2
    assert all("made by a newer version of the gateway" in line for line in lines)
    assert "listening on" not in done.stdout


def test_several_workers_need_redis(fleet: Fleet, tmp_path: Path) -> None:
    configuration = small(tmp_path, {"web": fleet.urls}, server={"workers": 2, "port": 0})
    done = starting(configuration, tmp_path)
    assert done.returncode == 2
    assert "storage.redis" in done.stderr


def test_a_port_in_use_is_reported_once(start_workers: StartWorkers, tmp_path: Path) -> None:
    gateway = start_workers()
    configuration = configuration_of(gateway)
    configuration["server"]["port"] = gateway.address[1]
    done = starting(configuration, tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(f"cannot listen on 127.0.0.1 port {gateway.address[1]}") == 1
