"""Health checks of a real Django, which answers 400 to every Host outside its ALLOWED_HOSTS."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.server.changing import configuration_of, reload
from tests.support.processes import FACES, Face, Gateway, free_port
from tests.support.raw import ask
from tests.support.small import Start
from tests.support.waiting import eventually
from tests.support.wording import request

pytest.importorskip("django")

APPLICATION = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import path, re_path

settings.configure(ALLOWED_HOSTS=["shop.example.com"], ROOT_URLCONF=__name__, SECRET_KEY="x" * 50)
passed = []

def healthy(request):
    passed.append(request.get_host())
    return HttpResponse()

urlpatterns = [
    path("healthz", healthy),
    path("shop/login", lambda request: HttpResponseRedirect(request.build_absolute_uri("/shop/"))),
    path("passed", lambda request: HttpResponse(str(len(passed)))),
    re_path("", lambda request: HttpResponse(request.get_host())),
]
application = get_wsgi_application()
"""
SHOP = "shop.example.com"
EVERY = {"path": "/healthz", "interval": "50ms", "fall": 2, "rise": 1}


@pytest.fixture(scope="module")
def django(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the application, served by waitress."""
    folder, port = tmp_path_factory.mktemp("django"), free_port()
    (folder / "shop.py").write_text(APPLICATION)
    listen = f"--listen=127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", "waitress", listen, "shop:application"], cwd=folder)

    def answers() -> bool:
        try:
            return ask(("127.0.0.1", port), request("/", host=SHOP)).status == 200
        except OSError:
            return False

    try:
        eventually(answers, timeout=20)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def is_up(gateway: Gateway) -> bool:
    """Whether the metrics report the only target as up."""
    text = gateway.get("/_gateway/metrics").body.decode()
    return re.search(r"^gateway_upstream_target_up{.*} 1$", text, re.MULTILINE) is not None


def passed(django: str) -> int:
    """The number of checks that the application has answered with 200."""
    address = "127.0.0.1", int(django.rpartition(":")[2])
    return int(ask(address, request("/passed", host=SHOP)).body)


@pytest.mark.parametrize(
    ("upstream", "hosts", "up"),
    [
        ({"health": EVERY}, [], False),
        ({"health": EVERY, "preserve_host": True}, [], False),
        ({"health": EVERY, "preserve_host": True}, ["*.example.com", SHOP, "gateway.test"], True),
        ({"health": EVERY, "preserve_host": True}, ["gateway.test", SHOP], False),
        ({"health": EVERY, "preserve_host": False}, [SHOP, "gateway.test"], False),
        ({"health": {**EVERY, "host": SHOP}}, [], True),
        ({"health": {**EVERY, "host": f"{SHOP}:8443"}, "engine": "httpx"}, [], True),
        ({"health": {**EVERY, "host": SHOP}, "preserve_host": True}, ["gateway.test"], True),
    ],
    ids=[
        *("the target's own Host", "nothing to send instead", "the first name of server.hosts", "another first name"),
        *("the clients' Host does not go on", "health.host", "health.host with a port", "health.host goes first"),
    ],
)
def test_checks_send_a_host_that_the_application_knows(
    start: Start, django: str, upstream: dict[str, object], hosts: list[str], up: bool
) -> None:
    before = passed(django)
    gateway = start({"shop": {"targets": [django], **upstream}}, server={"hosts": hosts})
    if up:
        eventually(lambda: passed(django) >= before + 3)
        assert is_up(gateway)
    else:
        eventually(lambda: not is_up(gateway))
        assert passed(django) == before
        assert gateway.ask(request("/shop/x", host="gateway.test")).code in ("upstream_unavailable", "misdirected")
        assert re.search(r"its checks fail, with status 400 for Host \S+ \(health\.path, health\.host\)", gateway.log())


@pytest.mark.parametrize("face", FACES)
def test_clients_and_checks_get_through_with_one_list_of_hosts(start: Start, django: str, face: Face) -> None:
    shop = {"targets": [django], "preserve_host": True, "health": EVERY}
    gateway = start({"shop": shop}, face, server={"hosts": [SHOP]})
    answer = gateway.ask(request("/shop/x", host=SHOP))
    assert (answer.status, answer.body) == (200, SHOP.encode())
    assert gateway.ask(request("/shop/x", host="evil.test")).refused() == (421, "misdirected")
    before = passed(django)
    eventually(lambda: passed(django) >= before + 3)
    assert is_up(gateway)


def test_a_reload_of_server_hosts_changes_the_host_of_the_checks(start: Start, django: str) -> None:
    shop = {"targets": [django], "preserve_host": True, "health": EVERY}
    gateway = start({"shop": shop}, server={"hosts": ["other.example.com"]})
    eventually(lambda: not is_up(gateway))
    configuration = configuration_of(gateway)
    configuration["server"]["hosts"] = [SHOP]
    reload(gateway, configuration)
    eventually(lambda: gateway.ask(request("/shop/x", host=SHOP)).body == SHOP.encode())
    assert gateway.ask(request("/shop/x", host="other.example.com")).refused() == (421, "misdirected")


@pytest.mark.parametrize("preserved", [True, False])
def test_a_redirect_of_the_application_names_the_host_that_it_gets(start: Start, django: str, preserved: bool) -> None:
    gateway = start({"shop": {"targets": [django], "preserve_host": preserved}})
    answer = gateway.ask(request("/shop/login", host=SHOP))
    if preserved:
        assert (answer.status, answer.value("location")) == (302, b"http://shop.example.com/shop/")
    else:
        assert answer.status == 400, "it gets the target's address, which ALLOWED_HOSTS does not list"
