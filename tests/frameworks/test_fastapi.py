"""FastAPI on uvicorn behind the defaults."""

from collections.abc import Iterator

import pytest

from tests.frameworks.applications import HTTPS, PYTHON, SHOP, Site, application, site
from tests.support.processes import FACES, Face

APPLICATION = """
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

app = FastAPI()

@app.get("/items/")
@app.get("/base/items/")
def items(request: Request):
    return {"host": request.headers["host"], "prefix": request.headers.get("x-forwarded-prefix")}

@app.post("/items/")
def create(request: Request, response: Response):
    response.status_code = 201
    response.headers["Location"] = str(request.url_for("create")) + "7"
    response.set_cookie("last", "7", path="/")
    return {}

@app.get("/away")
def away():
    return RedirectResponse("https://idp.example.com/login?next=/items/")
"""


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fastapi")
    command = [PYTHON, "-m", "uvicorn", "app:app", "--port", "PORT", "--no-access-log"]
    with application(folder, command, app_py=APPLICATION) as url:
        yield url


@pytest.fixture(scope="module", params=FACES)
def shop(request: pytest.FixtureRequest, fastapi: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    face: Face = request.param
    engine = "native" if face == "serve" else "httpx"
    with site(tmp_path_factory.mktemp("gateway"), fastapi, face, engine=engine) as running:
        yield running


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/items?page=2", "http://shop.example.com/items/?page=2"),
        ("/shop/items?page=2", "http://shop.example.com/shop/items/?page=2"),
        ("/mounted/items", "http://shop.example.com/mounted/items/"),
        ("/own/items", "http://shop.example.com/own/items/"),
        ("/shop/away", "https://idp.example.com/login?next=/items/"),
    ],
)
def test_the_slash_redirect_leads_to_the_public_address(shop: Site, target: str, location: str) -> None:
    assert shop.location(target) == location


def test_the_slash_redirect_keeps_https_behind_a_proxy_that_terminates_tls(shop: Site) -> None:
    assert shop.location("/shop/items", *HTTPS) == "https://shop.example.com/shop/items/"


def test_the_slash_redirect_can_be_followed(shop: Site) -> None:
    for target in ("/items", "/shop/items", "/mounted/items", "/own/items"):
        path = shop.location(target).removeprefix(f"http://{SHOP}")
        assert shop.ask(path).status == 200, path


def test_a_created_resource_has_a_public_location_and_its_cookie_the_public_path(shop: Site) -> None:
    created = shop.ask("/shop/items/", method="POST", body=b"")
    assert created.status == 201
    assert created.value("location") == b"http://shop.example.com/shop/items/7"
    assert created.value("set-cookie") == b"last=7; Path=/shop; SameSite=lax"


def test_the_application_receives_the_public_host_and_the_prefix(shop: Site) -> None:
    assert shop.ask("/shop/items/").json()["host"] == SHOP
    assert shop.ask("/shop/items/").json()["prefix"] == "/shop"
    assert shop.ask("/items/", "X-Forwarded-Prefix: /eu").json()["prefix"] == "/eu"
    assert shop.ask("/items/").json()["prefix"] is None


def test_a_root_path_of_the_application_is_not_prefixed_twice(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("root-path")
    command = [PYTHON, "-m", "uvicorn", "app:app", "--port", "PORT", "--no-access-log", "--root-path", "/shop"]
    with application(folder, command, app_py=APPLICATION) as url, site(folder, url) as shop:
        assert shop.location("/shop/items") == "http://shop.example.com/shop/items/"
        assert shop.ask("/shop/openapi.json").json()["servers"] == [{"url": "/shop"}]
