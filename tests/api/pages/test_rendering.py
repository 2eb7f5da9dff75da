"""Pages as HTML: escaping, header fields, own templates, colours, size and cost."""

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gateway.accounts.texts.catalogue import SHIPPED, Catalogue
from gateway.api.pages.colours import SCHEMES, Colour, palette
from gateway.api.pages.examples import check_templates, examples
from gateway.api.pages.rendering import Form, Page, Product, Renderer
from gateway.api.pages.views import AddressView, SignInView
from gateway.errors import ConfigurationError

CATALOGUE = Catalogue.load(SHIPPED)
PRODUCT = Product("Northwind", terms="/terms", privacy="/privacy", support="mailto:help@example.com")
RENDERER = Renderer(CATALOGUE, PRODUCT)
EXAMPLES = {(name, language): page for language in SHIPPED for name, page in examples(CATALOGUE, language)}
PAYLOAD = "\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}{email}"


class Elements(HTMLParser):
    """The start tags of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page(name: str, language: str = "en") -> Page:
    return EXAMPLES[name, language]


def test_every_page_has_at_most_25_kib_with_its_style() -> None:
    sizes = {key: len(RENDERER.render(each)[0].encode()) for key, each in EXAMPLES.items()}
    assert max(sizes.values()) <= 25 * 1024, sizes


def test_a_page_takes_at_most_5_ms_of_cpu() -> None:
    taken = []
    for _ in range(20):
        before = time.thread_time()
        RENDERER.render(page("account"))
        taken.append(time.thread_time() - before)
    assert min(taken) <= 0.005  # the other measurements include work of other processes on the same cache


@pytest.mark.parametrize("name", sorted({name for name, _ in EXAMPLES}))
class TestEveryPage:
    def test_loads_nothing_from_elsewhere(self, name: str) -> None:
        html = RENDERER.render(page(name))[0]
        for tag, attributes in Elements(html).found:
            for attribute in ("src", "srcset", "data", "poster", "action", "formaction"):
                assert not attributes.get(attribute), (tag, attributes)
            assert not any(key.startswith("on") or key == "style" for key in attributes), (tag, attributes)
        assert "url(" not in html and "@import" not in html

    def test_has_one_heading_of_the_first_level_a_title_and_a_language(self, name: str) -> None:
        html = RENDERER.render(page(name, "de"))[0]
        elements = Elements(html)
        assert len(elements.of("h1")) == len(elements.of("main")) == len(elements.of("title")) == 1
        assert elements.of("html") == [{"lang": "de", "dir": "ltr"}]

    def test_ties_each_field_to_a_label_and_each_description_to_a_text(self, name: str) -> None:
        elements = Elements(RENDERER.render(page(name))[0])
        labelled = {label["for"] for label in elements.of("label")}
        known = {attributes.get("id") for _, attributes in elements.found}
        for field in elements.of("input") + elements.of("select"):
            assert field.get("type") == "hidden" or "hidden" in field or field["id"] in labelled
            assert set((field.get("aria-describedby") or "").split()) <= known

    def test_has_the_nonce_of_its_policy_on_style_and_script_and_no_other_script(self, name: str) -> None:
        html, headers = RENDERER.render(page(name))
        [nonce] = set(re.findall(r"'nonce-([^']+)'", headers["content-security-policy"]))
        elements = Elements(html)
        assert elements.of("style") == [{"nonce": nonce}]
        assert elements.of("script") == [{"nonce": nonce}] * ("script-src" in headers["content-security-policy"])
        has_password = any(field.get("type") == "password" for field in elements.of("input"))
        assert has_password <= bool(elements.of("script"))


def test_header_fields_are_exactly_these() -> None:
    _, headers = RENDERER.render(page("forgot"))
    [nonce] = re.findall(r"'nonce-([^']+)'", headers["content-security-policy"])
    assert len(nonce) >= 22
    assert headers == {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": f"default-src 'none'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        "referrer-policy": "strict-origin",
        "x-content-type-options": "nosniff",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "publickey-credentials-get=(self), publickey-credentials-create=(self)",
        "cache-control": "no-store",
        "strict-transport-security": "max-age=63072000",
    }


def test_no_two_responses_have_the_same_nonce() -> None:
    policies = {RENDERER.render(page("forgot"))[1]["content-security-policy"] for _ in range(20)}
    assert len(policies) == 20


def test_http_on_this_machine_has_no_strict_transport_security() -> None:
    renderer = Renderer(CATALOGUE, PRODUCT, is_secure=False)
    assert "strict-transport-security" not in renderer.render(page("forgot"))[1]


def test_forms_can_lead_to_the_other_origins_of_sessions() -> None:
    renderer = Renderer(CATALOGUE, PRODUCT, origins=("https://admin.example.com",))
    policy = renderer.render(page("forgot"))[1]["content-security-policy"]
    assert "form-action 'self' https://admin.example.com;" in policy


def test_values_are_escaped_and_never_read_as_templates() -> None:
    form = Form(values={"email": PAYLOAD}, errors={"email": PAYLOAD}, reason=PAYLOAD, notice=PAYLOAD)
    renderer = Renderer(CATALOGUE, PRODUCT._replace(name=PAYLOAD))
    for each in (
        replace(page("sign-in"), form=form, heading=PAYLOAD),
        replace(page("confirm"), data=AddressView(PAYLOAD)),
    ):
        html = renderer.render(each)[0]
        assert not Elements(html).of("img")
        assert "&lt;img src=x onerror=alert(1)&gt;{{ 7 * 7 }}{email}" in html


def test_the_first_wrong_field_has_the_focus_and_names_its_error() -> None:
    fields = Elements(RENDERER.render(page("register-refused"))[0]).of("input")
    [focused] = [field for field in fields if "autofocus" in field]
    assert focused["name"] == "new_password"
    assert focused["aria-invalid"] == "true"
    assert focused["aria-describedby"] == "new_password-wrong new_password-hint"


def test_a_refused_form_has_an_alert_and_an_error_in_the_title() -> None:
    html = RENDERER.render(page("sign-in-refused"))[0]
    assert '<div class="alert" role="alert" id="reason">The e-mail address or the password is wrong.</div>' in html
    assert "<title>Error: Sign in · Northwind</title>" in html
    assert 'value="ada@example.com"' in html


class TestTemplates:
    def test_replace_shipped_ones_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "forgot.html").write_text('{% extends "base.html" %}{% block content %}Mine{% endblock %}')
        renderer = Renderer(CATALOGUE, PRODUCT, templates=tmp_path)
        assert "Mine" in renderer.render(page("forgot"))[0]
        assert "Mine" not in renderer.render(page("sign-in"))[0]

    def test_that_do_not_compile_are_an_error_with_their_line(self, tmp_path: Path) -> None:
        (tmp_path / "forgot.html").write_text("\n{% block %}")
        with pytest.raises(ConfigurationError) as caught:
            Renderer(CATALOGUE, PRODUCT, templates=tmp_path)
        [problem] = caught.value.problems
        assert (Path(problem.file), problem.line) == (tmp_path / "forgot.html", 2)
        assert problem.message.startswith("does not compile")

    @pytest.mark.parametrize(
        ("text", "line", "reason"),
        [
            ("\n{{ nope.x }}", 2, "'nope' is undefined"),
            ("{% extends 'nope.html' %}", 1, "nope.html"),
            ("{{ ''.__class__ }}", 1, "access to attribute '__class__' of 'str' object is unsafe."),
            ("{{ 1 / 0 }}", 1, "division by zero"),
            ("{{ page.nope }}", 1, "nope"),
        ],
    )
    def test_that_fail_are_an_error_with_their_line(self, tmp_path: Path, text: str, line: int, reason: str) -> None:
        (tmp_path / "sign_in.html").write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            check_templates(Renderer(CATALOGUE, PRODUCT, templates=tmp_path), CATALOGUE)
        [problem] = caught.value.problems
        assert (problem.key, problem.line) == ("sign_in.html", line)
        assert problem.message.startswith("fails: ") and reason in problem.message

    @pytest.mark.parametrize(
        "text",
        [
            "{{ ''.__class__.__mro__ }}",
            "{{ say.__globals__ }}",
            "{{ urls.update({'x': 1}) }}",
            "{{ page.email.__init__ }}",
            "{{ self._TemplateReference__context }}",
            "{% include '../../../../etc/passwd' %}",
        ],
    )
    def test_cannot_leave_the_sandbox(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "confirm.html").write_text(text)
        renderer = Renderer(CATALOGUE, PRODUCT, templates=tmp_path)
        with pytest.raises(Exception, match=r"unsafe|not safely|undefined|not found|etc/passwd"):
            renderer.render(page("confirm"))

    def test_get_values_that_cannot_be_changed(self) -> None:
        data: Any = SignInView(remember=True)
        with pytest.raises(AttributeError):
            data.remember = False


class TestColours:
    @pytest.mark.parametrize("accent", ["#1f5eb8", "#000000", "#ffffff", "#ffe100", "#777777", "#c00000", "#00ff88"])
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_of_every_accent_reach_the_contrasts_of_wcag(self, accent: str, scheme: Any) -> None:
        colours = {name: Colour.parse(text) for name, text in palette(Colour.parse(accent), scheme).items()}
        assert colours["on-accent"].contrast(colours["accent"]) >= 4.5
        assert colours["on-accent"].contrast(colours["accent-2"]) >= 4.5
        for surface in ("card", "ground"):
            for text in ("link", "text", "soft", "bad", "good", "warn"):
                assert colours[text].contrast(colours[surface]) >= 4.5, text
        for edge in ("field", "card"):
            assert colours["edge"].contrast(colours[edge]) >= 3  # 1.4.11: the border of a field

    def test_of_notes_reach_the_contrast_of_text(self) -> None:
        for scheme in SCHEMES:
            colours = {name: Colour.parse(text) for name, text in palette(Colour.parse("#1f5eb8"), scheme).items()}
            for name in ("bad-soft", "good-soft"):
                assert colours["text"].contrast(colours[name]) >= 4.5

    def test_follow_the_scheme_of_the_browser_unless_a_preview_forces_one(self) -> None:
        assert "@media (prefers-color-scheme:dark)" in RENDERER.render(page("forgot"))[0]
        assert "@media (prefers-color-scheme" not in RENDERER.render(page("forgot"), scheme="dark")[0]
