"""Flask behind the defaults, on waitress and hypercorn, with and without ProxyFix."""

from collections.abc import Iterator

import pytest

from tests.frameworks.applications import HTTPS, PYTHON, SHOP, Site, application, site

APPLICATION = """
from flask import Flask, redirect, request, session, url_for
from werkzeug.middleware.proxy_fix import ProxyFix

def made(fixed):
    app = Flask(__name__)
    app.secret_key = "x" * 32
    if fixed:
        # Two proxies: the one that terminates TLS, and the gateway. The prefix and the port have one value.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=2, x_proto=2, x_host=2, x_port=1, x_prefix=1)

    @app.get("/base/items/")
    def based():
        return {}

    @app.get("/items/")
    def items():
        return {"url": request.url, "root": request.script_root, "for": request.remote_addr}

    @app.get("/login")
    def login():
        session["user"] = "u1"
        return redirect(url_for("items"))

    @app.get("/external")
    def external():
        return redirect(url_for("items", _external=True))

    return app

plain, fixed = made(False), made(True)
"""
SERVERS = {
    "waitress": ["-m", "waitress", "--listen", "127.0.0.1:PORT", "app:plain"],
    "hypercorn": ["-m", "hypercorn", "--bind", "127.0.0.1:PORT", "wsgi:app:plain"],
}
# waitress drops X-Forwarded-* otherwise.
FIXED = ["-m", "waitress", "--listen", "127.0.0.1:PORT", "--no-clear-untrusted-proxy-headers", "app:fixed"]


@pytest.fixture(scope="module", params=SERVERS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("flask")
    with application(folder, [PYTHON, *SERVERS[request.param]], app_py=APPLICATION) as url, site(folder, url) as shop:
        yield shop


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An application that reads X-Forwarded-Prefix, so it writes the prefix itself."""
    folder = tmp_path_factory.mktemp("fixed")
    with application(folder, [PYTHON, *FIXED], app_py=APPLICATION) as url, site(folder, url) as shop:
        yield shop


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/items", "http://shop.example.com/items/"),
        ("/shop/items", "http://shop.example.com/shop/items/"),
        ("/mounted/items", "http://shop.example.com/mounted/items/"),
        ("/own/items", "http://shop.example.com/own/items/"),
        ("/shop/external", "http://shop.example.com/shop/items/"),
        ("/shop/login", "/shop/items/"),
        ("/login", "/items/"),
    ],
)
def test_redirects_lead_to_the_public_address(shop: Site, target: str, location: str) -> None:
    assert shop.location(target) == location


def test_redirects_keep_https_behind_a_proxy_that_terminates_tls(shop: Site) -> None:
    for target in ("/shop/items", "/shop/external"):
        assert shop.location(target, *HTTPS) == f"https://{SHOP}/shop/items/"


def test_the_cookie_of_a_session_has_the_public_path(shop: Site) -> None:
    cookie = shop.ask("/shop/login").value("set-cookie")
    assert cookie is not None
    assert cookie.endswith(b"; HttpOnly; Path=/shop")


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/items", "http://shop.example.com/items/"),
        ("/shop/items", "http://shop.example.com/shop/items/"),
        ("/mounted/items", "http://shop.example.com/mounted/items/"),
        ("/shop/external", "http://shop.example.com/shop/items/"),
        ("/shop/login", "/shop/items/"),
    ],
)
def test_a_prefix_that_the_application_writes_itself_is_not_written_twice(
    fixed: Site, target: str, location: str
) -> None:
    assert fixed.location(target) == location
    assert fixed.location(target, *HTTPS) == location.replace("http:", "https:")
