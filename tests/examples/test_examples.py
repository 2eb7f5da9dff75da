"""The examples as their READMEs run them, each with a real browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.support.chromium import Browser, browsing
from tests.support.launcher import Launched, launch
from tests.support.processes import PASSWORD, PROJECT, free_port
from tests.support.react import CACHE, write_react
from tests.support.waiting import eventually

EXAMPLES = PROJECT / "examples"
EMAIL = "ada@example.com"
# Passwords are hashed at the lowest cost.
_ACCOUNTS = "\naccounts:\n"
_CHEAP = _ACCOUNTS + "  password: {bcrypt_rounds: 4}\n"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@contextmanager
def running(command: list[str], environment: Mapping[str, str], port: int) -> Iterator[None]:
    """A process that listens on a port."""
    env = {**os.environ, **environment, "PYTHONPATH": str(PROJECT)}
    null = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=PROJECT, env=env, stdout=null, stderr=null) as process:
        try:
            eventually(_listens, process, port, timeout=20, every=0.05)
            yield
        finally:
            process.terminate()


@contextmanager
def running_gateway(config: Path, environment: Mapping[str, str], port: int) -> Iterator[None]:
    """A gateway from the launcher."""
    with open(os.devnull, "r+b") as file:
        null = file.fileno()
        arguments = ["-m", "gateway", "serve", "--config", str(config)]
        process = launch(arguments, stdin=null, stdout=null, stderr=null, env={**os.environ, **environment})
    try:
        eventually(_listens, process, port, timeout=20, every=0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _listens(process: "subprocess.Popen[bytes] | Launched", port: int) -> bool:
    assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def example(name: str, application: list[str], folder: Path, **environment: str) -> Iterator[str]:
    """An example behind its gateway, with one account. `{port}` in the command is the port of the application."""
    port, upstream = free_port(), free_port()
    url = f"http://localhost:{port}"
    own = {
        "PORT": str(port),
        "PUBLIC_URL": url,
        "UPSTREAM_PORT": str(upstream),
        "DATABASE": f"sqlite:///{folder}/gateway.db",
    } | environment
    config = folder / "gateway.yaml"
    config.write_text((EXAMPLES / name / "gateway.yaml").read_text().replace(_ACCOUNTS, _CHEAP))
    with ExitStack() as stack:
        stack.enter_context(running([part.format(port=upstream) for part in application], own, upstream))
        stack.enter_context(running_gateway(config, own, port))
        body = json.dumps({"email": EMAIL, "password": PASSWORD}).encode()
        urlopen(Request(f"http://127.0.0.1:{port}/auth/register", body, {"Content-Type": "application/json"})).close()
        yield url


def sign_in(browser: Browser, url: str, path: str) -> None:
    browser.forget()
    browser.go(f"{url}/account/sign-in?return_to={path}")
    browser.submit(email=EMAIL, password=PASSWORD)


def sign_out(browser: Browser, url: str) -> None:
    browser.go(f"{url}/account/sign-out")
    browser.submit()
    assert "You are signed out." in browser.text()


def test_fastapi(browser: Browser, tmp_path: Path) -> None:
    application = [sys.executable, "-m", "uvicorn", "--app-dir", "examples/fastapi", "--port", "{port}", "app:app"]
    with example("fastapi", application, tmp_path) as url:
        browser.go(f"{url}/")
        assert "Sign in to read your notes" in browser.text()
        sign_in(browser, url, "/notes")
        assert f"Notes of {EMAIL}" in browser.text()
        browser.submit(text="Buy milk")
        assert "Buy milk" in browser.text()
        browser.go(f"{url}/")
        assert f"Hello {EMAIL}" in browser.text()
        sign_out(browser, url)
        browser.go(f"{url}/notes")
        assert "Buy milk" not in browser.text()


def test_django(browser: Browser, tmp_path: Path) -> None:
    database = {"DJANGO_DB": str(tmp_path / "django.db")}
    manage = [sys.executable, "examples/django/manage.py"]
    subprocess.run([*manage, "migrate", "--verbosity", "0"], cwd=PROJECT, env={**os.environ, **database}, check=True)
    application = [*manage, "runserver", "--noreload", "{port}"]
    with example("django", application, tmp_path, **database) as url:
        sign_in(browser, url, "/notes")
        assert f"Notes of {EMAIL}" in browser.text()
        browser.submit(text="Buy milk")
        assert "Buy milk" in browser.text()
        sign_out(browser, url)
        browser.go(f"{url}/notes")
        assert "Buy milk" not in browser.text()


def test_react(browser: Browser, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "react", tmp_path / "react")
    write_react(tmp_path / "react" / "static" / "vendor", CACHE)
    application = [sys.executable, "-m", "uvicorn", "--app-dir", str(tmp_path / "react"), "--port", "{port}", "app:app"]
    with example("react", application, tmp_path) as url:
        browser.go(f"{url}/")
        eventually(lambda: "Sign in" in browser.text(), timeout=10, every=0.05)
        sign_in(browser, url, "/")
        eventually(lambda: f"Notes of {EMAIL}" in browser.text(), timeout=10, every=0.05)
        browser.run("document.querySelector('[name=text]').value = 'Buy milk'; document.forms[0].requestSubmit()")
        eventually(lambda: "Buy milk" in browser.text(), timeout=10, every=0.05)
        assert browser.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        sign_out(browser, url)
