"""The echo upstream returns the request as it received it."""

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.cli.demo.echo import SHOWN_BODY, echo_upstream
from tests.cli.running import environment


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with echo_upstream() as url:
        yield url


@pytest.fixture
def connection(url: str) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    yield connection
    connection.close()


def shown(connection: http.client.HTTPConnection) -> dict[str, Any]:
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    seen = json.loads(answer.read())
    assert isinstance(seen, dict)
    return seen


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_the_request_line_is_shown_as_it_came(connection: http.client.HTTPConnection, method: str) -> None:
    connection.request(method, "/a%2Fb/%7Ec?x=1&x=%202")
    seen = shown(connection)
    assert (seen["method"], seen["path"], seen["query"]) == (method, "/a%2Fb/%7Ec", "x=1&x=%202")


def test_headers_are_shown_with_every_value_of_a_repeated_one(connection: http.client.HTTPConnection) -> None:
    connection.putrequest("GET", "/")
    for name, value in [("X-One", "1"), ("X-Two", "a"), ("X-Two", "b"), ("X-Latin", "caf\xe9")]:
        connection.putheader(name, value)
    connection.endheaders()
    headers = shown(connection)["headers"]
    assert (headers["x-one"], headers["x-two"], headers["x-latin"]) == ("1", ["a", "b"], "caf\xe9")


@pytest.mark.parametrize(
    ("sent", "text"),
    [(b"", ""), ("grüße".encode(), "grüße"), (b"\xff\x00", "\ufffd\x00"), (b"x" * 200_000, "x" * SHOWN_BODY)],
    ids=["none", "text", "bytes", "large"],
)
def test_a_body_is_shown_up_to_a_limit_and_counted_whole(
    connection: http.client.HTTPConnection, sent: bytes, text: str
) -> None:
    connection.request("POST", "/", body=sent)
    seen = shown(connection)
    assert (seen["body"], seen["body_bytes"]) == (text, len(sent))


def test_chunked_bodies_are_counted_as_well(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/", body=iter([b"one ", b"two"]))
    assert shown(connection)["body"] == "one two"


def test_an_answer_to_head_has_no_body_and_the_connection_goes_on(
    connection: http.client.HTTPConnection,
) -> None:
    connection.request("HEAD", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.request("GET", "/next")
    assert shown(connection)["path"] == "/next"


def test_it_runs_alone_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "gateway.cli.demo.echo", "--port", "0"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.fullmatch(r"echo upstream on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
        assert found is not None
        connection = http.client.HTTPConnection(urlsplit(found[1]).netloc, timeout=5)
        connection.request("GET", "/")
        assert shown(connection)["path"] == "/"
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) in (0, -signal.SIGTERM)


def test_a_port_in_use_is_one_line(url: str) -> None:
    command = [sys.executable, "-m", "gateway.cli.demo.echo", "--port", str(urlsplit(url).port)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: cannot listen on {urlsplit(url).netloc}: Address already in use")
    assert len(done.stderr.splitlines()) == 1
