"""Real web servers with a CGI program that prints the variables made of header fields."""

import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal

from tests.support.processes import free_port
from tests.support.raw import Address, Caller
from tests.support.waiting import eventually

Name = Literal["lighttpd", "apache2"]
NAMES: Final[tuple[Name, ...]] = ("lighttpd", "apache2")

_PROGRAM: Final = """\
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
env
"""
_LIGHTTPD: Final = """\
server.document-root = "{folder}/documents"
server.bind = "127.0.0.1"
server.port = {port}
server.modules = ("mod_cgi")
server.errorlog = "{folder}/error.log"
server.http-parseopts = ("header-strict" => "disable")
cgi.assign = (".cgi" => "")
"""
_APACHE: Final = """\
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
ErrorLog {folder}/error.log
DefaultRuntimeDir {folder}
LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule cgi_module /usr/lib/apache2/modules/mod_cgi.so
TraceEnable on
DocumentRoot {folder}/documents
<Directory {folder}/documents>
    Require all granted
    Options +ExecCGI
    SetHandler cgi-script
</Directory>
"""


def installed(name: Name) -> bool:
    """Whether the server is on this machine."""
    return shutil.which(name, path=_PATH) is not None


class CgiServer:
    """A server on its own port. The response at every path below `/cgi/show.cgi` contains the variables."""

    def __init__(self, name: Name, folder: Path) -> None:
        self.address: Address = ("127.0.0.1", free_port())
        program = folder / "documents" / "cgi" / "show.cgi"
        program.parent.mkdir(parents=True)
        program.write_text(_PROGRAM)
        program.chmod(0o755)
        template = _LIGHTTPD if name == "lighttpd" else _APACHE
        config = folder / f"{name}.conf"
        config.write_text(template.format(folder=folder, port=self.address[1]))
        foreground = ["-D"] if name == "lighttpd" else ["-D", "FOREGROUND"]
        binary = shutil.which(name, path=_PATH)
        assert binary is not None
        with (folder / "output.log").open("ab") as log:
            # Apache signals its whole process group when it ends.
            self._process = subprocess.Popen(
                [binary, *foreground, "-f", str(config)], stdout=log, stderr=log, start_new_session=True
            )
        eventually(self._listens, timeout=20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "the server has ended"
        try:
            Caller(self.address).close()
        except OSError:
            return False
        return True


_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def variables(body: bytes) -> dict[str, str]:
    """The variables printed by the program."""
    pairs = (line.partition("=") for line in body.decode("latin-1").splitlines())
    return {name: value for name, _, value in pairs}
