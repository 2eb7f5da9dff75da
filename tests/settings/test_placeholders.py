"""The values of `${NAME}`, `${NAME:-default}` and `${file:PATH}`, and the errors for undefined ones."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.interpolation import LARGEST_FILE, fill
from gateway.settings.postgresql_address import postgresql_address
from tests.settings.reading import draft_of, problems_of, settings_of, warnings_of
from tests.support.scale import examples

FILLED = [
    ("${NAME}", "value"),
    ("a-${NAME}-b", "a-value-b"),
    ("${NAME}${OTHER}", "valueother"),
    ("${MISSING:-default}", "default"),
    ("${EMPTY:-default}", "default"),
    ("${NAME:-default}", "value"),
    ("${MISSING:-a:-b c}", "a:-b c"),
    ("$${NAME}", "${NAME}"),
    ("$$${NAME}", "$${NAME}"),
    ("$NAME", "$NAME"),
    ("{NAME}", "{NAME}"),
    ("${NESTED}", "${NAME}"),
    ("${file:-x}", "x"),
]
ENVIRONMENT = {"NAME": "value", "OTHER": "other", "EMPTY": "", "NESTED": "${NAME}"}


@pytest.mark.parametrize(("text", "value"), FILLED)
def test_a_placeholder_stands_for(text: str, value: str) -> None:
    assert fill(text, ENVIRONMENT).text == value
    assert settings_of(f'tokens: {{issuer: "{text}"}}', ENVIRONMENT).tokens.issuer == value


@given(st.text().filter(lambda text: "${" not in text))
def test_text_without_placeholders_is_itself(text: str) -> None:
    assert fill(text, {}).text == text


@given(st.text())
def test_a_value_is_put_in_as_it_is(value: str) -> None:
    assert fill("<${A}>", {"A": value}).text == f"<{value}>"


UNFILLED = [
    ("${MISSING}", "the environment variable MISSING is not set (set it, or write ${MISSING:-default})"),
    (
        "${NAME",
        "has a '${' that is not closed, or another one inside it "
        "(${NAME}, ${NAME:-default}, ${file:PATH}, or $${ for a literal ${)",
    ),
    (
        "${A:-${NAME}}",
        "has a '${' that is not closed, or another one inside it "
        "(${NAME}, ${NAME:-default}, ${file:PATH}, or $${ for a literal ${)",
    ),
    (
        "${}",
        "has an unknown placeholder, found '${}' (${NAME}, ${NAME:-default}, ${file:PATH}, or $${ for a literal ${)",
    ),
    (
        "${MY-NAME:-hunter2}",
        "has an unknown placeholder, found '${MY-NAME}' "
        "(${NAME}, ${NAME:-default}, ${file:PATH}, or $${ for a literal ${)",
    ),
    (
        "${file:}",
        "has an unknown placeholder, found '${file:}' "
        "(${NAME}, ${NAME:-default}, ${file:PATH}, or $${ for a literal ${)",
    ),
    ("${file:/nowhere/at-all}", "the file '/nowhere/at-all' cannot be read: No such file or directory"),
    ("${file:/}", "the file '/' is not a regular file"),
    ("${file:/dev/zero}", "the file '/dev/zero' is not a regular file"),
]


@pytest.mark.parametrize(("text", "message"), UNFILLED)
def test_a_placeholder_without_a_value_is_a_problem_at_its_line(text: str, message: str) -> None:
    assert problems_of(f'tokens:\n  issuer: "{text}"\n', ENVIRONMENT) == [f"2:11: tokens.issuer: {message}"]


def test_an_unprintable_name_of_a_file_is_a_problem_too() -> None:
    (problem,) = problems_of('tokens: {issuer: "${file:a\\0b}"}')

    assert "\0" not in problem
    assert problem.startswith("1:18: tokens.issuer: the file 'a")


TYPED: list[tuple[str, str, dict[str, str], Any]] = [
    ("server:\n  port: ${PORT:-8000}\n", "server.port", {}, 8000),
    ("server:\n  port: ${PORT:-8000}\n", "server.port", {"PORT": "81"}, 81),
    ("server:\n  port: 80${PORT}\n", "server.port", {"PORT": "81"}, 8081),
    ("observability:\n  metrics: ${METRICS}\n", "observability.metrics", {"METRICS": "false"}, False),
    ("storage:\n  redis: ${REDIS:-null}\n", "storage.redis", {}, None),
    ("storage:\n  redis: ${REDIS:-}\n", "storage.redis", {}, None),
    ("server:\n  drain: ${DRAIN:-5s}\n", "server.drain", {}, 5.0),
    ("server:\n  max_body: ${SIZE:-1KiB}\n", "server.max_body", {}, 1024),
    ("tokens:\n  issuer: ${ISSUER}\n", "tokens.issuer", {"ISSUER": "12"}, "12"),
    ("tokens:\n  issuer: ${ISSUER}\n", "tokens.issuer", {"ISSUER": "true"}, "true"),
    ("accounts:\n  prefix: ${PREFIX:-}\n", "accounts.prefix", {}, ""),
]


@pytest.mark.parametrize(("text", "attribute", "environment", "value"), TYPED)
def test_a_value_that_is_put_in_without_quotes_may_be_of_any_type(
    text: str, attribute: str, environment: dict[str, str], value: object
) -> None:
    found: Any = settings_of(text, environment)
    for name in attribute.split("."):
        found = getattr(found, name)

    assert found == value
    assert type(found) is type(value)


SAID = [
    (
        "server:\n  port: ${P}\n",
        {"P": "x"},
        "2:9: server.port: must be a whole number from 0 to 65535, found 'x' from ${P}",
    ),
    (
        "server:\n  port: ${P:-hunter2}\n",
        {},
        "2:9: server.port: must be a whole number from 0 to 65535, found 'hunter2' from ${P}",
    ),
    (
        "server:\n  port: ${DB_PASSWORD}\n",
        {"DB_PASSWORD": "hunter2"},
        "2:9: server.port: must be a whole number from 0 to 65535, found the value of ${DB_PASSWORD}",
    ),
    (
        'server:\n  port: "${P}"\n',
        {"P": "80"},
        "2:9: server.port: must be a whole number from 0 to 65535, found '80' from ${P} (80, without quotes)",
    ),
    (
        'tokens:\n  issuer: "${A}${B}"\n',
        {"A": "", "B": ""},
        "2:11: tokens.issuer: must be text, found '' from ${A} ${B}",
    ),
]


@pytest.mark.parametrize(("text", "environment", "line"), SAID)
def test_a_problem_names_the_placeholder(text: str, environment: dict[str, str], line: str) -> None:
    assert problems_of(text, environment) == [line]


def test_a_file_stands_for_its_stripped_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "issuer").write_text("\n  from a file \n")
    monkeypatch.chdir(tmp_path)

    assert settings_of('tokens: {issuer: "${file:issuer}"}').tokens.issuer == "from a file"
    assert settings_of(f'tokens: {{issuer: "${{file:{tmp_path}/issuer}}"}}').tokens.issuer == "from a file"


def test_values_from_a_file_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("hunter2")

    (problem,) = problems_of(f"server:\n  port: ${{file:{tmp_path}/port}}\n")

    assert problem.endswith(f"found the value of ${{file:{tmp_path}/port}}")


def test_a_file_that_is_not_text_or_too_large_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"a" * (LARGEST_FILE + 1))

    assert problems_of(f'tokens: {{issuer: "${{file:{tmp_path}/bytes}}"}}')[0].endswith("does not hold UTF-8 text")
    assert problems_of(f'tokens: {{issuer: "${{file:{tmp_path}/large}}"}}')[0].endswith("is larger than 1MiB")


def test_a_variable_that_is_not_text_is_a_problem() -> None:
    (problem,) = problems_of("tokens:\n  issuer: ${ISSUER}\n", {"ISSUER": "a\udcff"})

    assert problem == "2:11: tokens.issuer: the environment variable ISSUER does not hold UTF-8 text"


EVERY_KIND_OF_VALUE = """
    server: {host: "${V}", port: "${V}", public_url: "${V}", trusted_proxies: ["${V}"], drain: "${V}", max_body: "${V}"}
    storage: {database: "${V}", redis: "${V}"}
    accounts: {prefix: "${V}", registration: "${V}", default_roles: ["${V}"], admin_role: "${V}"}
    tokens:
      keys: [{kid: "${V}", algorithm: HS256, secret: "${V}"}, {kid: b, algorithm: ES256, private_key: "${V}"}]
      external: [{issuer: "${V}", audience: "${V}", name: "${V}", jwks_url: "${V}", role_map: {a: "${V}"}}]
    identity: {headers: {id: "${V}"}}
    upstreams: {web: "${V}", api: {targets: ["${V}"], retry_budget: "${V}", tls: {ca: "${V}", client_key: "${V}"}}}
    routes:
      - {path: "${V}", upstream: "${V}", owner: "${V}", host: "${V}", name: "${V}", methods: ["${V}"], roles: ["${V}"]}
    observability: {metrics: "${V}"}
"""


@examples(200)
@given(
    st.text(alphabet=st.characters(exclude_categories=()))
    | st.text(alphabet="htps:/@?#[]%.0129a,=-{}")
    | st.builds("{}://{}".format, st.sampled_from(["http", "redis", "sqlite", "postgresql"]), st.text())
)
def test_no_value_of_a_variable_raises(value: str) -> None:
    draft = draft_of(EVERY_KIND_OF_VALUE, {"V": value})

    assert (draft.settings is None) == bool(draft.problems)
    assert all(str(problem).isprintable() for problem in (*draft.problems, *draft.warnings))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert problems_of(f'tokens: {{issuer: "${{file:{tmp_path}/pipe}}"}}')[0].endswith("is not a regular file")
    assert not problems_of(f"upstreams: {{a: {{targets: ['https://h'], tls: {{ca: {tmp_path}/pipe}}}}}}")


def test_names_are_not_filled_in() -> None:
    assert problems_of("roles:\n  ${A}: []\n", {"A": "x"}) == []
    assert settings_of("roles:\n  ${A}: []\n", {"A": "x"}).roles == {"${A}": ()}


def test_a_literal_secret_is_warned_of_even_if_it_holds_an_escaped_placeholder() -> None:
    secret = "$${" + "x" * 40

    (warning,) = warnings_of(f"tokens: {{keys: [{{kid: a, algorithm: HS256, secret: '{secret}'}}]}}")

    assert warning.startswith("1:52: tokens.keys[0].secret: is visible to")


def test_the_draft_hides_interpolated_values() -> None:
    draft = draft_of("storage:\n  database: ${DB}\n", {"DB": "postgresql://app:hunter2@db/app?sslpassword=hunter2"})

    assert draft.settings is not None
    assert "hunter2" not in repr(draft)
    assert draft.settings.storage.database.reveal().count("hunter2") == 2


# ---- addresses

ADDRESSES = {
    "postgresql://gateway:${file:/PASSWORD}@db/gateway": "postgresql://gateway:{}@db/gateway",
    "postgresql://${USER}:${file:/PASSWORD}@db1,db2/gateway?sslmode=require": "postgresql://me:{}@db1,db2/gateway?sslmode=require",
    "redis://:${file:/PASSWORD}@h:6379/0": "redis://:{}@h:6379/0",
    "redis+sentinel://u:${file:/PASSWORD}@a:1,b:2/main": "redis+sentinel://u:{}@a:1,b:2/main",
}


@pytest.mark.parametrize(("template", "address"), ADDRESSES.items(), ids=ADDRESSES)
@pytest.mark.parametrize("password", ["simple", "a/b?c#d[e@f%g", "%41", "ü:& =+", "//@@", "${USER}"])
def test_any_password_can_stand_in_the_user_info_of_an_address(
    tmp_path: Path, template: str, address: str, password: str
) -> None:
    (tmp_path / "password").write_text(f"{password}\n")
    filled = fill(template.replace("/PASSWORD", str(tmp_path / "password")), {"USER": "me"}).text
    assert filled == address.format(quote(password, safe=""))
    userinfo = filled.partition("://")[2].rpartition("@")[0]
    assert unquote(userinfo.partition(":")[2]) == password


OTHERWISE = ["http://h/${NAME}@x", "${NAME}", "user:${NAME}@host", "http://h?u=${NAME}@x", "a ${NAME}://b@c"]


@pytest.mark.parametrize("template", OTHERWISE)
def test_a_placeholder_elsewhere_is_not_encoded(template: str) -> None:
    assert fill(template, {"NAME": "a/b?c"}).text == template.replace("${NAME}", "a/b?c")


@given(st.text(alphabet="abc/?#[]@%:&=+ ", min_size=1, max_size=12))
def test_a_postgresql_address_takes_any_password_from_a_placeholder(password: str) -> None:
    filled = fill("postgresql://u:${PASSWORD}@h:5433/db?connect_timeout=3", {"PASSWORD": password}).text
    address = postgresql_address(filled)
    assert urlsplit(address.dsn).hostname == "h"
    assert unquote(str(urlsplit(address.dsn).password)) == password
    assert address.connect_timeout == 3.0


def test_the_options_of_a_postgresql_address_are_obeyed() -> None:
    address = postgresql_address(
        "postgres://u@h1,h2:5433/db?sslmode=require&connect_timeout=0&keepalives_idle=30&keepalives=0"
        "&search_path=a%2Cb&channel_binding=prefer&application_name=x"
    )
    assert address.dsn == "postgresql://u@h1,h2:5433/db?sslmode=require"
    assert address.default_target == "read-write"
    assert address.connect_timeout is None
    assert address.session_parameters == {"search_path": "a,b", "application_name": "x"}
    assert address.socket_options == {"keepalives_idle": 30, "keepalives": 0}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("postgresql://h/db", None),
        ("postgresql://h1,h2/db?target_session_attrs=any", None),
        ("postgresql:///db?host=h1,h2", "read-write"),
    ],
)
def test_among_several_hosts_the_one_that_takes_changes_is_looked_for(text: str, target: str | None) -> None:
    assert postgresql_address(text).default_target == target
