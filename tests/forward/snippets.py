"""The snippets of docs/forward-auth.md, run as they stand there but for the addresses."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.processes import free_port
from tests.support.raw import Address, Answer, Caller
from tests.support.waiting import eventually

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "forward-auth.md"

NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{snippet}
}}
"""


def snippet(language: str) -> str:
    """The first block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None, language
    return found[1]


def program(name: str) -> str | None:
    """A program that a wheel put beside the interpreter, else one of the machine."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


class FrontProxy:
    """A proxy that stands in front, running a snippet. Its callers come from an address that nobody trusts."""

    def __init__(self, name: str, folder: Path, gateway: Address, upstream: Address) -> None:
        self.name = name
        self.folder = folder
        self.address: Address = ("127.0.0.1", free_port())
        self._places = {8080: self.address[1], 8000: gateway[1], 9000: upstream[1]}
        self._log = folder / f"{name}.log"
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
        binary = program(self.name)
        assert binary is not None
        if self.name == "nginx":
            text = NGINX.format(folder=self.folder, snippet=self._placed("nginx"))
            return [binary, "-p", str(self.folder), "-e", str(self._log), "-c", self._file("nginx.conf", text)]
        if self.name == "caddy":
            text = "{\n\tadmin off\n\tauto_https off\n}\n" + self._placed("caddyfile")
            return [binary, "run", "--adapter", "caddyfile", "--config", self._file("Caddyfile", text)]
        self._file("verify.lua", self._placed("lua"))
        return [binary, "-db", "-f", self._file("haproxy.cfg", self._placed("haproxy"))]

    def _placed(self, language: str) -> str:
        places = rf":({'|'.join(map(str, self._places))})\b"
        return re.sub(places, lambda found: f":{self._places[int(found[1])]}", snippet(language))

    def _file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)
