"""A visitor of the pages as seen from the wire: keeps the session cookie, and submits forms like a browser."""

from urllib.parse import urlencode

from tests.support.browsers import OWN_PAGE, Browser
from tests.support.processes import PASSWORD
from tests.support.raw import Answer
from tests.support.wording import request

NAVIGATION = ("Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
FORM = "Content-Type: application/x-www-form-urlencoded"


class Visitor(Browser):
    """One browser at the pages below `/account`."""

    def open(self, path: str, *fields: str) -> Answer:
        """Navigate to a page."""
        return self.get(path, *NAVIGATION, *fields)

    def submit(self, path: str, *fields: str, proof: str = OWN_PAGE, **values: str) -> Answer:
        """Submit the form of a page, and keep the cookie that the response sets."""
        lines = [*((self.line,) if self.cookie else ()), FORM, *((proof,) if proof else ()), *fields]
        body = urlencode(values).encode()
        answer = self.gateway.ask(request(path, method="POST", fields=lines, body=body), method="POST")
        for value in answer.values("set-cookie"):
            self.cookie = value.decode().partition("=")[2].partition(";")[0] or None
        return answer

    def enter(self, email: str, password: str = PASSWORD) -> "Visitor":
        """Sign in on the page."""
        answer = self.submit("/account/sign-in", email=email, password=password)
        assert answer.status == 303, answer.body
        return self


def text_of(answer: Answer) -> str:
    """The HTML of a page without its style and script."""
    html = answer.body.decode()
    for element in ("style", "script"):
        before, _, rest = html.partition(f"<{element} ")
        html = before + rest.partition(f"</{element}>")[2]
    return html
