"""A real headless browser, controlled by its DevTools protocol. Tests that need one are skipped without it."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.waiting import eventually

_BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1100,800")


class Browser:
    """One tab. `complaints` are the browser's reports about a page: policy violations, failed loads."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.complaints: list[str] = []
        self._session: str | None = None
        (page,) = [one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def go(self, url: str) -> None:
        """Open a page."""
        self._call("Page.navigate", url=url)
        self.settle()

    def run(self, script: str, *, wait: bool = False) -> Any:
        """The value of an expression on the page; with `wait`, the value of its promise."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=wait)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self) -> str:
        """The visible text."""
        return cast("str", self.run("document.body?.innerText ?? ''"))  # between two pages the body is missing

    def submit(self, **fields: str) -> None:
        """Fill in the fields of the last form on the page and submit it."""
        for name, value in fields.items():
            self.run(f"[...document.querySelectorAll('[name={name}]')].pop().value = {json.dumps(value)}")
        self.follow("[...document.querySelectorAll('button')].pop()")

    def follow(self, element: str) -> None:
        """Click an element, given as an expression, that leads to another page."""
        self.run(f"window.before = true; {element}.click()")
        eventually(lambda: not self.run("window.before === true"), timeout=15, every=0.05)
        self.settle()

    def prefer(self, scheme: str) -> None:
        """Set the preferred colour scheme, `light` or `dark`."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int = 800) -> None:
        """Set the size of the window in CSS pixels."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def forget(self) -> None:
        """Delete all cookies and complaints."""
        self._call("Network.clearBrowserCookies")
        self.complaints.clear()

    def cookies(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._call("Network.getAllCookies")["cookies"])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def settle(self) -> None:
        """Wait until the page is loaded."""
        eventually(lambda: self.run("document.readyState") == "complete", timeout=15, every=0.05)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            reply = json.loads(self._connection.recv(timeout=20))
            if reply.get("method") == "Log.entryAdded" and reply["params"]["entry"]["level"] in ("error", "warning"):
                self.complaints.append(reply["params"]["entry"]["text"])
            if reply.get("id") == self._number:
                if "Cannot find default execution context" in str(reply.get("error")):  # between two pages
                    time.sleep(0.05)
                    return {"result": {}}
                assert "error" not in reply, (method, reply["error"])
                return cast("dict[str, Any]", reply["result"])


@contextmanager
def browsing(folder: Path, *options: str) -> Iterator[Browser]:
    if _BINARY is None:
        pytest.skip("no chromium here")
    command = [_BINARY, *_OPTIONS, *options, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "DevToolsActivePort"
        eventually(lambda: port_file.exists() and len(port_file.read_text().splitlines()) == 2, timeout=30, every=0.05)
        port, path = port_file.read_text().splitlines()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as connection:
            yield Browser(connection)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
