"""Make links from pages to other files of the repository work in the site (mkdocs.yml)."""

import re
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parent
REPOSITORY: Final = "https://github.com/asgi-gateway/gateway/blob/main/"
FIGURES: Final = "bench/results"
_LINK: Final = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the figures of the benchmarks, which pages show."""
    for figure in sorted((ROOT / FIGURES).glob("*.svg")):
        files.append(File.generated(config, f"{FIGURES}/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ at the repository, and those to figures at the site."""

    def replaced(found: re.Match[str]) -> str:
        target = normpath(join("docs", dirname(page.file.src_uri), found["target"]))
        if target == "docs" or target.startswith("docs/"):
            return found[0]
        up = "../" * page.file.src_uri.count("/")
        address = f"{up}{target}" if found["image"] else f"{REPOSITORY}{target}"
        return f"{found['image']}[{found['text']}]({address})"

    return _LINK.sub(replaced, markdown)
