"""Express with helmet behind the defaults. Needs node and npm; npm installs the packages once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frameworks.applications import HTTPS, SHOP, Site, application, site
from tests.support.express import express_packages

APPLICATION = """
const { createRequire } = require('node:module')
const load = createRequire(PACKAGES + '/package.json')
const express = load('express')
const app = express()
app.enable('strict routing')  // before the first use
app.use(load('helmet')())
app.set('trust proxy', true)
app.use('/files', express.static(__dirname))
for (const base of ['', '/base']) {
  app.get(base + '/items', (request, response) => response.redirect(301, base + '/items/'))
  app.get(base + '/items/', (request, response) => response.json({ url: request.originalUrl, host: request.hostname }))
}
app.get('/absolute', (request, response) =>
  response.redirect(`${request.protocol}://${request.get('host')}/items/`))
app.post('/items/', (request, response) =>
  response.status(201).location('7').cookie('last', '7', { httpOnly: true }).json({}))
app.listen(PORT, '127.0.0.1')
"""


@pytest.fixture(scope="module")
def packages() -> Path:
    return express_packages()


@pytest.fixture(scope="module")
def shop(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("express")
    (folder / "inside").mkdir()
    source = f"const PACKAGES = {str(packages)!r}; const PORT = Number(process.argv[2])\n{APPLICATION}"
    with application(folder, ["node", "app.js", "PORT"], app_js=source) as url, site(folder, url) as shop:
        yield shop


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/items", "/items/"),
        ("/shop/items", "/shop/items/"),
        ("/mounted/items", "/mounted/items/"),
        ("/shop/files/inside", "/shop/files/inside/"),
        ("/absolute", "http://shop.example.com/items/"),
        ("/shop/absolute", "http://shop.example.com/shop/items/"),
        ("/own/absolute", "http://shop.example.com/own/items/"),
    ],
)
def test_redirects_lead_to_the_public_address(shop: Site, target: str, location: str) -> None:
    assert shop.location(target) == location


def test_redirects_keep_https_behind_a_proxy_that_terminates_tls(shop: Site) -> None:
    assert shop.location("/shop/absolute", *HTTPS) == "https://shop.example.com/shop/items/"


def test_the_application_receives_the_public_host(shop: Site) -> None:
    assert shop.ask("/shop/items/").json() == {"url": "/items/", "host": SHOP}


def test_a_cookie_has_the_public_path_and_a_relative_location_stays(shop: Site) -> None:
    created = shop.ask("/shop/items/", method="POST", body=b"")
    assert (created.value("set-cookie"), created.value("location")) == (b"last=7; Path=/shop; HttpOnly", b"7")


def test_the_fields_of_helmet_come_back_unchanged(shop: Site) -> None:
    answer = shop.ask("/shop/items/")
    assert (answer.value("content-security-policy") or b"").startswith(b"default-src 'self';base-uri 'self';")
    assert answer.value("strict-transport-security") == b"max-age=31536000; includeSubDomains"
    assert answer.value("cross-origin-opener-policy") == b"same-origin"
    assert answer.value("x-powered-by") is None
