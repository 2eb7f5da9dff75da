"""The temporary folder of a demo: its configuration, with its own port and database."""

from importlib import resources
from pathlib import Path
from typing import Final

# Values of the shipped configuration that the demo replaces.
PORT: Final = "port: 8000"
DATABASE: Final = "sqlite:///gateway-demo.db"
UPSTREAM: Final = "http://127.0.0.1:9000"
PUBLIC_URL: Final = "http://127.0.0.1:8000"
MAIL: Final = "gateway-demo-mail"


def demo_text() -> str:
    """The demo configuration shipped with the package."""
    return resources.files("gateway.cli.demo").joinpath("demo.yaml").read_text(encoding="utf-8")


def write_configuration(folder: Path, *, port: int, upstream: str) -> Path:
    """Write the configuration of one demo. The file is complete, so other commands work with it."""
    text = demo_text()
    own = {
        PORT: f"port: {port}",
        PUBLIC_URL: f"http://127.0.0.1:{port}",
        DATABASE: f"sqlite:///{folder}/gateway.db",
        MAIL: str(mail_folder(folder)),
        UPSTREAM: upstream,
    }
    for shipped, ours in own.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, ours)
    path = folder / "demo.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mail_folder(folder: Path) -> Path:
    """The folder in which a demo writes its mails."""
    return folder / "mail"
