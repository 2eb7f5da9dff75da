"""Uploads in chunks to real WSGI servers: the table of docs/upstreams.md."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import free_port
from tests.support.raw import ask
from tests.support.small import Start
from tests.support.waiting import eventually
from tests.support.wording import chunked, request

pytest.importorskip("django")
pytest.importorskip("werkzeug")

APPLICATION = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt
from werkzeug.wrappers import Request, Response

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x" * 50)
urlpatterns = [re_path("", csrf_exempt(lambda request: HttpResponse(request.body)))]
application = get_wsgi_application()

@Request.application
def werkzeug(received):
    return Response(received.get_data())
"""
SERVERS = {
    "Django on waitress": ("waitress", "--listen=127.0.0.1:{port}", "echo:application"),
    "Django on gunicorn": ("gunicorn", "--bind=127.0.0.1:{port}", "echo:application"),
    "Werkzeug on gunicorn": ("gunicorn", "--bind=127.0.0.1:{port}", "echo:werkzeug"),
}
READS = {"Django on waitress": b"hello world", "Django on gunicorn": b"", "Werkzeug on gunicorn": b"hello world"}


def answers(port: int) -> bool:
    try:
        return ask(("127.0.0.1", port), request()).status == 200
    except OSError:
        return False


@pytest.mark.parametrize("server", SERVERS)
def test_the_view_of_an_application_on_an_upload_depends_on_its_server(
    start: Start, tmp_path: Path, server: str
) -> None:
    (tmp_path / "echo.py").write_text(APPLICATION)
    port = free_port()
    arguments = [word.format(port=port) for word in SERVERS[server]]
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(port), timeout=20)
        gateway = start({"app": f"http://127.0.0.1:{port}"})
        with_length = gateway.ask(request("/app/x", method="POST", body=b"hello world"))
        assert (with_length.status, with_length.body) == (200, b"hello world")
        head = request("/app/x", method="POST", fields=["Transfer-Encoding: chunked"])
        without = gateway.ask(head + chunked(b"hello ", b"world"))
        assert (without.status, without.body) == (200, READS[server])
    finally:
        process.terminate()
        process.wait(10)
