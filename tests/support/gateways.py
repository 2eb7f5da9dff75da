"""Running gateways as fixtures: one per configuration and server, started at first use, ended when unused for long."""

import json
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import pytest

from tests.support import launcher
from tests.support.configurations import changed, standard, with_engine
from tests.support.processes import (
    FACES,
    PASSWORD,
    Account,
    Configuration,
    Engine,
    Face,
    Gateway,
    write_configuration,
)
from tests.support.token_factory import TokenFactory
from tests.support.upstreams import Upstreams
from tests.support.waiting import eventually

# The accounts of every session-wide gateway: address, roles (empty: the default ones), active.
PEOPLE: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("user@example.com", (), True),
    ("admin@example.com", ("admin",), True),
    ("editor@example.com", ("editor",), True),
    ("both@example.com", ("editor", "auditor"), True),
    ("50%off+x@example.com", (), True),
    ("disabled@example.com", (), False),
)


SignIn = Callable[[str], Account]

# Seconds after which an unused gateway ends. Its timers take 0.5 % of a core: as much in this time as another start.
_UNUSED: Final = 15.0


class Gateways:
    """The gateways of a session. All share one set of keys and start from copies of one database of accounts."""

    def __init__(self, upstreams: Upstreams, folder: Path) -> None:
        self.upstreams = upstreams
        self.folder = folder
        self.token_factory = TokenFactory()
        self._running: dict[tuple[str, Face, Engine], Gateway] = {}
        self._used: dict[tuple[str, Face, Engine], float] = {}
        self._started = 0
        self._seed: Path | None = None

    def configuration(self, folder: Path, engine: Engine = "native") -> Configuration:
        return with_engine(standard(self.upstreams, self.token_factory, folder), engine)

    def gateway(
        self,
        name: str,
        face: Face,
        engine: Engine = "native",
        *,
        routes: Sequence[Mapping[str, object]] = (),
        **sections: Mapping[str, object],
    ) -> Gateway:
        """The running gateway of this name, server and engine. `routes` extend the standard configuration, `sections`
        change it."""
        self._used[name, face, engine] = time.monotonic()
        gateway = self._running.get((name, face, engine))
        if gateway is None:
            self._started += 1
            folder = self.folder / f"{name}-{face}-{engine}-{self._started}"
            folder.mkdir()
            shutil.copy(self.seed(), folder / "gateway.db")
            configuration = changed(self.configuration(folder, engine), **sections)
            configuration["routes"] += routes
            gateway = Gateway(face, configuration, folder, engine).start()
            self._running[name, face, engine] = gateway
        assert gateway.running, f"the gateway died ({name}, {face}):\n{gateway.log()[-4000:]}"
        return gateway

    def seed(self) -> Path:
        """A database with all accounts of PEOPLE."""
        if self._seed is None:
            folder = self.folder / "seed"
            folder.mkdir(exist_ok=True)
            commands = [["db", "upgrade"]]
            for email, roles, active in PEOPLE:
                options = [word for role in roles for word in ("--role", role)]
                commands.append(["users", "create", email, *options, "--password-stdin"])
                if not active:
                    commands.append(["users", "disable", email])
            _run_all(write_configuration(folder, self.configuration(folder)), commands)
            self._seed = folder / "gateway.db"
        return self._seed

    def end(self, unused: float = 0.0) -> None:
        """End the gateways that no test has used for this many seconds."""
        before = time.monotonic() - unused
        ended = [self._running.pop(key) for key, used in self._used.items() if used <= before and key in self._running]
        for gateway in ended:  # all at once: each takes a moment to end
            gateway.signal()
        with ExitStack() as stack:
            for gateway in ended:
                stack.callback(_end, gateway)


# Every command costs the startup of Python; this script runs several in one process.
_SEVERAL = """
import io, json, sys
from gateway.cli.program import run
config, password, commands = json.loads(sys.argv[1])
for command in commands:
    sys.stdin = io.StringIO(password)
    code = run([*command, "--config", config])
    assert code == 0, (command, code)
"""


def _run_all(config: Path, commands: list[list[str]]) -> None:
    arguments = json.dumps([str(config), PASSWORD + "\n", commands])
    done = launcher.run(["-c", _SEVERAL, arguments], timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:(?:[ \t].*)?\n)*\S.*")
# An ASGI application can abort a response only by raising, which uvicorn logs as an error.
_DELIBERATE = "\ngateway.server.asgi.response.UpstreamAborted: "


def unhandled(gateway: Gateway) -> list[str]:
    """The tracebacks in the log: unexpected errors."""
    found = _TRACEBACK.findall(gateway.log())
    return [each for each in found if not (gateway.face == "asgi" and _DELIBERATE in each)]


def _end(gateway: Gateway) -> None:
    gateway.stopped()
    assert not unhandled(gateway), f"an unhandled error ({gateway.face}): {unhandled(gateway)[0]}"


_GATEWAYS: Final = pytest.StashKey[Gateways]()


@pytest.fixture(scope="session")
def gateways(
    upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Gateways]:
    gateways = pytestconfig.stash[_GATEWAYS] = Gateways(upstreams, tmp_path_factory.mktemp("gateways"))
    yield gateways
    gateways.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """End unused gateways between two files. Fixtures of a file can hold a gateway, and those of a session must not."""
    yield
    if nextitem is not None and nextitem.path != item.path and _GATEWAYS in item.config.stash:
        item.config.stash[_GATEWAYS].end(_UNUSED)


@pytest.fixture(scope="session", params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    """Both servers: the gateway's own protocol class, and the application under a stock ASGI server."""
    chosen: Face = request.param
    return chosen


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine for the upstreams. The conformance suite runs over both (tests/proxy/conftest.py)."""
    return "native"


@pytest.fixture
def gateway(gateways: Gateways, face: Face, engine: Engine) -> Gateway:
    """The standard configuration."""
    return gateways.gateway("standard", face, engine)


@pytest.fixture
def hurried(gateways: Gateways, face: Face, engine: Engine) -> Gateway:
    """The standard configuration with time limits short enough for tests."""
    limits = {"header_timeout": "400ms", "body_timeout": "400ms", "keep_alive": "600ms"}
    return gateways.gateway("hurried", face, engine, server=limits)


@pytest.fixture
def trusting(gateways: Gateways, face: Face, engine: Engine) -> Gateway:
    """A gateway behind a trusted proxy: this machine."""
    return gateways.gateway("trusting", face, engine, server={"trusted_proxies": ["127.0.0.0/8"]})


@pytest.fixture
def relaxed(gateways: Gateways, face: Face, engine: Engine) -> Gateway:
    """A gateway with `paths: relaxed`."""
    return gateways.gateway("relaxed", face, engine, server={"paths": "relaxed"})


@pytest.fixture
def token_factory(gateways: Gateways) -> TokenFactory:
    return gateways.token_factory


@pytest.fixture
def sign_in(gateway: Gateway) -> SignIn:
    """Signs in an account of PEOPLE by the local part of its address, once per gateway."""
    return lambda name: signed_in(gateway, f"{name}@example.com")


_ACCOUNTS: WeakKeyDictionary[Gateway, dict[str, Account]] = WeakKeyDictionary()


def signed_in(gateway: Gateway, email: str) -> Account:
    """The signed-in account. On a busy machine the first response of the database can be late."""
    accounts = _ACCOUNTS.setdefault(gateway, {})
    if email not in accounts:
        login = {"email": email, "password": PASSWORD}
        eventually(lambda: gateway.post("/auth/login", login).status != 503)
        accounts[email] = gateway.login(email)
    return accounts[email]


@pytest.fixture
def user(gateway: Gateway) -> Account:
    """U: a plain user."""
    return signed_in(gateway, "user@example.com")


@pytest.fixture
def admin(gateway: Gateway) -> Account:
    """A: an admin."""
    return signed_in(gateway, "admin@example.com")
