"""Django behind the defaults: ALLOWED_HOSTS, CSRF protection and APPEND_SLASH, on gunicorn (WSGI) and daphne (ASGI)."""

import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.frameworks.applications import HTTPS, PYTHON, SHOP, Site, application, site
from tests.support.raw import Answer

APPLICATION = """
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.shortcuts import redirect
from django.template import engines
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["shop.example.com"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="x" * 50,
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)

def form(request):
    if request.method == "POST":
        return redirect(request.build_absolute_uri("/done/"))
    return HttpResponse(engines["django"].from_string("{% csrf_token %}").render({}, request))

urlpatterns = [
    path("form/", form),
    path("base/form/", form),
    path("done/", lambda request: HttpResponse(request.get_host())),
    path("enter/", lambda request: redirect("/form/")),
]
wsgi, asgi = get_wsgi_application(), get_asgi_application()
"""
SERVERS = {
    "gunicorn": ["-m", "gunicorn", "--bind", "127.0.0.1:PORT", "--workers", "1", "shop:wsgi"],
    "daphne": ["-m", "daphne", "--port", "PORT", "shop:asgi"],
}


@pytest.fixture(scope="module", params=SERVERS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("django")
    with application(folder, [PYTHON, *SERVERS[request.param]], shop_py=APPLICATION) as url, site(folder, url) as shop:
        yield shop


def submitted(shop: Site, target: str, *fields: str) -> Answer:
    """The response to the form at this target, sent as a browser does."""
    page = shop.ask(target, *fields)
    assert page.status == 200, page.body
    token = re.search(rb'value="([^"]+)"', page.body)
    cookie = page.value("set-cookie")
    assert token is not None and cookie is not None
    scheme = "https" if fields else "http"
    sent = [f"Cookie: {cookie.decode().partition(';')[0]}", f"Origin: {scheme}://{SHOP}"]
    sent += [f"Referer: {scheme}://{SHOP}{target}", "Content-Type: application/x-www-form-urlencoded", *fields]
    body = urlencode({"csrfmiddlewaretoken": token[1].decode()}).encode()
    return shop.ask(target, *sent, method="POST", body=body)


def test_allowed_hosts_contains_the_public_host_only(shop: Site) -> None:
    assert shop.ask("/done/").body == SHOP.encode()
    assert shop.ask("/shop/done/").body == SHOP.encode()
    assert shop.ask("/own/done/").status == 400, "with preserve_host: false it receives the target's address"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/form?a=1", "/form/?a=1"),
        ("/shop/form?a=1", "/shop/form/?a=1"),
        ("/mounted/form", "/mounted/form/"),
        ("/shop/enter/", "/shop/form/"),
    ],
)
def test_append_slash_redirects_to_the_public_path(shop: Site, target: str, location: str) -> None:
    assert shop.location(target) == location


@pytest.mark.parametrize("target", ["/form/", "/shop/form/"])
def test_a_form_passes_the_csrf_protection(shop: Site, target: str) -> None:
    answer = submitted(shop, target)
    assert (answer.status, answer.value("location")) == (302, f"http://{SHOP}{target[:-6]}/done/".encode())


def test_a_form_passes_the_csrf_protection_behind_a_proxy_that_terminates_tls(shop: Site) -> None:
    answer = submitted(shop, "/shop/form/", *HTTPS)
    assert (answer.status, answer.value("location")) == (302, f"https://{SHOP}/shop/done/".encode())


def test_a_form_of_another_origin_is_refused_by_django(shop: Site) -> None:
    page = shop.ask("/form/")
    cookie = (page.value("set-cookie") or b"").decode().partition(";")[0]
    answer = shop.ask("/form/", f"Cookie: {cookie}", "Origin: http://evil.test", method="POST", body=b"")
    assert answer.status == 403


@pytest.mark.parametrize(
    "name", ["SCRIPT_NAME", "script_name", "Script-Name", "PATH_INFO", "X-Script-Name", "Daphne-Root-Path"]
)
def test_a_client_does_not_move_the_path_that_the_policy_has_decided_on(shop: Site, name: str) -> None:
    """By default gunicorn reads SCRIPT_NAME from peers on this machine, and daphne Daphne-Root-Path from every peer."""
    assert shop.ask("/base/done/").status == 404
    assert shop.ask("/base/done/", f"{name}: /base").status == 404


def test_the_csrf_cookie_has_the_public_path(shop: Site) -> None:
    cookie = shop.ask("/shop/form/").value("set-cookie")
    assert cookie is not None
    assert b"; Path=/shop;" in cookie
