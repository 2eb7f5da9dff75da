"""Real application servers, and one gateway in front of each framework."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.gateways import unhandled
from tests.support.processes import Face, Gateway, free_port
from tests.support.raw import Answer
from tests.support.small import small
from tests.support.waiting import eventually, listens
from tests.support.wording import request

SHOP = "shop.example.com"
PYTHON = sys.executable
HTTPS = ("X-Forwarded-Proto: https", f"X-Forwarded-Host: {SHOP}")
"""The fields of a proxy that terminates TLS."""


@contextmanager
def application(folder: Path, command: Sequence[str], **files: str) -> Iterator[str]:
    """Write the files, run the command with PORT replaced by a free port, and yield its URL."""
    for name, text in files.items():
        (folder / name.replace("_py", ".py").replace("_js", ".js").replace("_php", ".php")).write_text(text)
    port = free_port()
    with running(folder, [word.replace("PORT", str(port)) for word in command]):
        eventually(lambda: listens(("127.0.0.1", port)), timeout=30)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(folder: Path, command: Sequence[str]) -> Iterator[None]:
    """Run a command in the folder until the end of the context."""
    with (folder / "output.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": "", "PYTHONWARNINGS": ""}
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


class Site:
    """A gateway in front of one application: at the root for every host, below `/shop` with `strip_prefix`, below
    `/mounted` with the base path `/base` too, and below `/own` with the target's own Host. It trusts this machine."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def ask(self, target: str, *fields: str, method: str = "GET", body: bytes | None = None) -> Answer:
        return self.gateway.ask(request(target, host=SHOP, fields=fields, method=method, body=body))

    def location(self, target: str, *fields: str) -> str:
        """The Location of the redirect at this target."""
        answer = self.ask(target, *fields)
        assert 300 <= answer.status < 400, (answer.status, answer.body)
        location = answer.value("location")
        assert location is not None
        return location.decode()


@contextmanager
def site(folder: Path, url: str, face: Face = "serve", **upstream: Any) -> Iterator[Site]:
    """Run a gateway in front of the application at this URL."""
    upstreams: Mapping[str, Any] = {
        "app": {"targets": [url], **upstream},
        "based": {"targets": [f"{url}/base"], **upstream},
        "own": {"targets": [url], "preserve_host": False, **upstream},
    }
    configuration = small(folder, upstreams, server={"trusted_proxies": ["127.0.0.0/8"], "hosts": [SHOP]})
    configuration["routes"] = [
        {"path": "/**", "auth": "none", "upstream": "app"},
        {"path": "/shop/**", "auth": "none", "upstream": "app", "strip_prefix": "/shop"},
        {"path": "/mounted/**", "auth": "none", "upstream": "based", "strip_prefix": "/mounted"},
        {"path": "/own/**", "auth": "none", "upstream": "own", "strip_prefix": "/own"},
    ]
    gateway = Gateway(face, configuration, folder)
    with ExitStack() as stack:
        stack.callback(gateway.kill)
        yield Site(gateway.start())
        assert not unhandled(gateway), unhandled(gateway)[0]
