"""A reload of pages, and a gateway without pages."""

import re
import subprocess
import sys
from pathlib import Path
from signal import SIGHUP
from typing import Any

import yaml

from tests.api.pages.visitors import Visitor, text_of
from tests.support.browsers import SETTINGS
from tests.support.processes import Gateway
from tests.support.small import small
from tests.support.waiting import eventually


def test_a_reload_shows_new_texts_and_refuses_faulty_ones(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    file = tmp_path / "texts" / "en.yaml"
    file.write_text("pages: {sign_in: {title: First}}")
    pages: dict[str, Any] = {"name": "Northwind", "messages": str(tmp_path / "texts")}
    configuration = small(
        tmp_path,
        {"open": "http://127.0.0.1:9"},
        server=SETTINGS["server"],
        sessions=SETTINGS["sessions"],
        accounts={"pages": pages},
    )
    gateway = Gateway("serve", configuration, tmp_path).start()
    try:
        visitor = Visitor(gateway)
        assert "<h1>First</h1>" in text_of(visitor.open("/account/sign-in"))
        file.write_text("pages: {sign_in: {titel: x}}")
        gateway.signal(SIGHUP)
        eventually(lambda: "is not a text of the gateway" in gateway.log(), timeout=10)
        assert "<h1>First</h1>" in text_of(visitor.open("/account/sign-in"))
        file.write_text("pages: {sign_in: {title: Second}}")
        configuration["accounts"]["pages"]["name"] = "Southwind"
        gateway.config.write_text(yaml.safe_dump(configuration))
        gateway.signal(SIGHUP)
        eventually(lambda: "<h1>Second</h1>" in text_of(visitor.open("/account/sign-in")), timeout=10)
        assert "Southwind" in text_of(visitor.open("/nowhere"))
    finally:
        gateway.stop()


def test_a_reload_applies_to_mails_links_and_invitations(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    texts = tmp_path / "texts" / "en.yaml"
    texts.write_text("{}")
    pages: dict[str, Any] = {"name": "Northwind", "messages": str(texts.parent)}
    configuration = small(
        tmp_path,
        {"open": "http://127.0.0.1:9"},
        server=SETTINGS["server"],
        sessions=SETTINGS["sessions"],
        accounts={"pages": pages, "password": {"bcrypt_rounds": 4}},
        roles={"admin": [], "user": [], "editor": []},
        mail={"from": "no-reply@gateway.test", "folder": str(tmp_path / "mail")},
    )
    gateway = Gateway("serve", configuration, tmp_path).start()
    try:
        gateway.register("ada@example.com")
        invited = gateway.command("users", "invite", "bob@example.com", "--role", "editor", "--print-link")
        token = invited.stdout.rpartition("token=")[2].strip()
        texts.write_text("mail: {reset: {subject: 'New words of {name}'}}")
        pages |= {"name": "Southwind", "urls": {"reset": "https://gateway.test/own?token={token}"}}
        del configuration["roles"]["editor"]
        gateway.config.write_text(yaml.safe_dump(configuration))
        gateway.signal(SIGHUP)
        visitor = Visitor(gateway)
        eventually(lambda: "Southwind" in text_of(visitor.open("/account/sign-in")), timeout=10)
        body = {"token": token, "password": "correct horse battery"}
        assert gateway.post("/auth/invitations/accept", body).status == 400
        assert gateway.post("/auth/password/forgot", {"email": "ada@example.com"}).status == 202
        eventually(lambda: list((tmp_path / "mail").glob("*.eml")), timeout=10)
        [mail] = (tmp_path / "mail").glob("*.eml")
        assert "Subject: New words of Southwind" in mail.read_text()
        [token] = re.findall(r"https://gateway\.test/own\?token=(gwl_[\w-]+)", mail.read_text())
        page = f"/account/reset?token={token}"  # the gateway's own page stays, for links of earlier mails
        assert "New password" in text_of(visitor.open(page))
        assert visitor.submit(page, new_password="another long sentence").status == 303
    finally:
        gateway.stop()


def test_without_pages_the_gateway_imports_neither_templates_nor_texts() -> None:
    code = (
        "import sys, gateway.app, gateway.server.serve; print(*{'jinja2', 'gateway.accounts.texts'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
