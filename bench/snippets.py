"""The snippets of docs/forward-auth/ with other addresses."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs" / "forward-auth"
PAGES: Final = {
    "nginx": "nginx.md",
    "caddyfile": "caddy.md",
    "lua": "haproxy.md",
    "haproxy": "haproxy.md",
    "yaml": "traefik.md",
    "envoy": "envoy.md",
}
# The ports in the snippets: those of the proxy, the gateway and the upstream.
LISTENS, GATEWAY, UPSTREAM = 8080, 8000, 9000

NGINX: Final = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{snippet}
}}
"""
CADDY: Final = "{\n\tadmin off\n\tauto_https off\n}\n"


def snippet(language: str, ports: Mapping[int, int]) -> str:
    """The first block of a language in its page, with its ports replaced."""
    text = (FOLDER / PAGES[language]).read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"docs/forward-auth/{PAGES[language]} has no {language}")
    if not ports:
        return found[1]
    return re.sub(rf":({'|'.join(map(str, ports))})\b", lambda port: f":{ports[int(port[1])]}", found[1])


def nginx_file(folder: Path, ports: Mapping[int, int]) -> str:
    """A complete nginx.conf around the snippet."""
    return NGINX.format(folder=folder, snippet=snippet("nginx", ports))


def envoy_file(ports: Mapping[int, int]) -> str:
    """A complete envoy.yaml: the snippet with its ports replaced, which stand on lines of their own."""
    text = snippet("envoy", {})
    return re.sub(
        rf"port_value: ({'|'.join(map(str, ports))})\b", lambda port: f"port_value: {ports[int(port[1])]}", text
    )


def caddy_file(ports: Mapping[int, int]) -> str:
    """A complete Caddyfile."""
    return CADDY + snippet("caddyfile", ports)
