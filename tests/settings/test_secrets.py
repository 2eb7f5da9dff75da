"""No text about secrets reveals them, and files with keys must be private."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import types_network
from gateway.settings.reader import InvalidValue
from gateway.settings.secret import HIDDEN, Secret, is_secretish, without_password, without_userinfo
from gateway.settings.types_network import check_private
from tests.settings.reading import problems_of, settings_of

PEM = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"
SHOWN = [
    ("postgresql://app:hunter2@db:5432/app", f"postgresql://app:{HIDDEN}@db:5432/app"),
    ("postgresql://app@db/app", "postgresql://app@db/app"),
    ("postgresql://db/app?user=app&password=hunter2", f"postgresql://db/app?{HIDDEN}"),
    ("redis://:hunter2@h:6379/0", f"redis://:{HIDDEN}@h:6379/0"),
    ("redis://u:hun/ter2@h", f"redis://u:{HIDDEN}@h"),
    ("redis://u:hun?ter2@h", f"redis://u:{HIDDEN}@h"),
    ("redis://u:hun#ter2@h", f"redis://u:{HIDDEN}@h"),
    ("redis://u:hun@ter2@h", f"redis://u:{HIDDEN}@h"),
    ("redis://h:hunter2", f"redis://{HIDDEN}"),
    ("redis+sentinel://u:hunter2@a:1,b:2,[::1]:3/main/0", f"redis+sentinel://u:{HIDDEN}@a:1,b:2,[::1]:3/main/0"),
    ("sqlite:///gateway.db", "sqlite:///gateway.db"),
    ("hunter2", HIDDEN),
]


@pytest.mark.parametrize(("text", "shown"), SHOWN)
def test_only_the_public_part_of_a_secret_is_shown(text: str, shown: str) -> None:
    secret = Secret(text)

    assert secret.shown == str(secret) == shown
    assert repr(secret) == f"Secret({shown!r})"
    assert secret.reveal() == text


PASSWORDS = st.text(alphabet="abcXYZ019/?#@:!$%&+=[]-_.~ ", min_size=4).filter(lambda text: "zz" not in text)


@given(PASSWORDS)
def test_no_part_of_a_password_is_shown(password: str) -> None:
    address = f"postgresql://zzuser:{password}@zzhost:5432/zzname"

    assert without_password(address) == f"postgresql://zzuser:{HIDDEN}@zzhost:5432/zzname"
    assert without_userinfo(f"see {address}") == f"see postgresql://{HIDDEN}@zzhost:5432/zzname"


@given(st.text())
def test_a_plain_secret_shows_nothing_of_itself(text: str) -> None:
    assert Secret(text.replace("://", "")).shown == HIDDEN


def test_secrets_are_compared_by_value() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


@pytest.mark.parametrize("name", ["DB_PASSWORD", "api_token", "SigningKey", "JWT_SECRET", "PGPASSWORD", "CREDENTIALS"])
def test_a_variable_with_such_a_name_is_taken_for_a_secret(name: str) -> None:
    assert is_secretish(name)


@pytest.mark.parametrize("name", ["PORT", "DATABASE_URL", "HOST"])
def test_a_variable_with_another_name_is_not(name: str) -> None:
    assert not is_secretish(name)


def key_file(folder: Path, mode: int) -> Path:
    file = folder / "k1.pem"
    file.write_text(PEM)
    file.chmod(mode)
    return file


def key_with(file: Path) -> str:
    return f'tokens: {{keys: [{{kid: a, algorithm: ES256, private_key: "${{file:{file}}}"}}]}}'


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_private_key_file_is_accepted(tmp_path: Path, mode: int) -> None:
    key = settings_of(key_with(key_file(tmp_path, mode))).tokens.keys[0]

    assert key.private_key is not None
    assert key.private_key.reveal() == PEM.strip()
    assert "hunter2" not in repr(key)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    file = key_file(tmp_path, mode)

    assert problems_of(key_with(file)) == [
        f"1:57: tokens.keys[0].private_key: the file '{file}' can be read by others, "
        f"its mode is {mode:04o} (chmod 600 {file})"
    ]


def test_a_secret_for_hmac_in_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x" * 32)
    file.chmod(0o644)

    (problem,) = problems_of(f'tokens: {{keys: [{{kid: a, algorithm: HS256, secret: "${{file:{file}}}"}}]}}')

    assert f"the file '{file}' can be read by others" in problem


def test_a_file_where_containers_mount_secrets_may_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests cannot write to /run/secrets, so the rule applies to another folder here.
    mounted = tmp_path / "secrets"
    mounted.mkdir()
    monkeypatch.setattr(types_network, "MOUNTED_SECRETS", (mounted,))
    file = key_file(mounted, 0o444)
    link = tmp_path / "link.pem"
    link.symlink_to(file)
    outside = key_file(tmp_path, 0o444)

    assert problems_of(key_with(file)) == []
    assert problems_of(key_with(link)) == []
    assert problems_of(key_with(mounted / ".." / outside.name)) != []


def test_the_folders_of_mounted_secrets_are_the_usual_ones() -> None:
    assert [str(folder) for folder in types_network.MOUNTED_SECRETS] == ["/run/secrets", "/var/run/secrets"]


def test_a_file_that_vanishes_while_it_is_looked_at_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"k1\.pem' cannot be read: No such file"):
        check_private(tmp_path / "k1.pem")


def tls_with(keys: str) -> str:
    return f"upstreams: {{web: {{targets: ['https://h'], tls: {{{keys}}}}}}}"


def test_the_key_of_a_client_certificate_must_be_private_too(tmp_path: Path) -> None:
    file = key_file(tmp_path, 0o644)

    (problem,) = problems_of(tls_with(f"client_cert: {file}, client_key: {file}"))

    assert problem.endswith(
        f"upstreams.web.tls.client_key: the file '{file}' can be read by others, its mode is 0644 (chmod 600 {file})"
    )
    file.chmod(0o600)
    assert problems_of(tls_with(f"client_cert: {file}, client_key: {file}, ca: {file}")) == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (tls_with("client_cert: FILE"), "upstreams.web.tls.client_cert"),
        ("server: {tls: {certificate: FILE}}", "server.tls.certificate"),
    ],
)
def test_a_certificate_with_its_key_in_one_file_must_be_private_too(tmp_path: Path, text: str, key: str) -> None:
    file = key_file(tmp_path, 0o640)

    (problem,) = problems_of(text.replace("FILE", str(file)))

    assert problem.endswith(f"{key}: the file '{file}' can be read by others, its mode is 0640 (chmod 600 {file})")
    file.chmod(0o600)
    assert problems_of(text.replace("FILE", str(file))) == []


def test_a_client_key_without_its_certificate_is_of_no_use(tmp_path: Path) -> None:
    file = key_file(tmp_path, 0o600)

    (problem,) = problems_of(tls_with(f"client_key: {file}"))

    assert problem.endswith("tls.client_key: has no effect without tls.client_cert (the certificate for it)")
