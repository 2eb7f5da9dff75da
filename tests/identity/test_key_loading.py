"""Loading signing keys from a configuration file, and the problems with their positions."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import ConfigurationError, Problem
from gateway.identity.signing_keys import key_problems, key_ring, made_key_path
from gateway.settings.loader import read_settings
from gateway.settings.model import Secret, Settings, StorageSettings

CURVE = ec.generate_private_key(ec.SECP256R1())
POSTGRESQL = "postgresql://app:hidden@db/gateway"


def settings_of(folder: Path, text: str, keys: dict[str, PrivateKeyTypes] | None = None) -> Settings:
    """The settings of a file with this text, next to these key files."""
    for name, key in (keys or {}).items():
        file = folder / name
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.chmod(0o600)
    file = folder / "gateway.yaml"
    file.write_text(text.replace("FOLDER", str(folder)))
    draft = read_settings(file, {})
    assert draft.settings is not None, draft.problems
    return draft.settings


def over(database: str) -> Settings:
    return Settings(storage=StorageSettings(database=Secret(database)))


def test_the_keys_of_a_file_are_used_in_its_order(tmp_path: Path) -> None:
    text = """
upstreams: {web: http://127.0.0.1:9000}
tokens:
  keys:
    - {kid: k1, algorithm: ES256, private_key: "${file:FOLDER/k1.pem}"}
    - {kid: k0, algorithm: HS256, secret: 0123456789abcdef0123456789abcdef}
    - {kid: k2, algorithm: EdDSA, private_key: "${file:FOLDER/k2.pem}"}
"""
    keys: dict[str, PrivateKeyTypes] = {"k1.pem": CURVE, "k2.pem": ed25519.Ed25519PrivateKey.generate()}
    settings = settings_of(tmp_path, text, keys)
    assert key_problems(settings) == ()
    ring = key_ring(settings)
    assert (ring.signer.kid, ring.signer.algorithm) == ("k1", "ES256")
    assert [jwk["kid"] for jwk in ring.jwks()["keys"]] == ["k1", "k2"]
    assert ring.get("k0") is not None


def test_every_key_that_will_not_do_is_named_with_its_place(tmp_path: Path) -> None:
    text = """
upstreams: {web: http://127.0.0.1:9000}
tokens:
  keys:
    - private_key: "${file:FOLDER/small.pem}"
      kid: small
      algorithm: RS256
    - private_key: "${file:FOLDER/good.pem}"
      kid: good
      algorithm: ES256
    - private_key: "${file:FOLDER/curve.pem}"
      kid: curve
      algorithm: ES256
    - private_key: "-----BEGIN PRIVATE KEY-----MIGHAgEAMB-----END PRIVATE KEY-----"
      kid: cut
      algorithm: ES256
    - secret: ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ
      kid: ssh
      algorithm: HS256
"""
    keys: dict[str, PrivateKeyTypes] = {
        "small.pem": rsa.generate_private_key(65537, 1024),
        "good.pem": CURVE,
        "curve.pem": ec.generate_private_key(ec.SECP384R1()),
    }
    settings = settings_of(tmp_path, text, keys)
    file = str(tmp_path / "gateway.yaml")
    problems = key_problems(settings)
    assert [str(problem) for problem in problems] == [
        f"{file}:5:20: tokens.keys[0].private_key: must be an RSA key of at least 2048 bits for RS256, "
        "found an RSA key of 1024 bits (gateway keys generate makes one)",
        f"{file}:11:20: tokens.keys[2].private_key: must be an elliptic curve key on P-256 for ES256, "
        "found an elliptic curve key on P-384 (algorithm: ES384, or another key)",
        f"{file}:14:20: tokens.keys[3].private_key: must be a private key in PEM form, found something else",
        f"{file}:17:15: tokens.keys[4].secret: must be a random secret, "
        "found a key or certificate, which others know in part (openssl rand -hex 32)",
    ]
    with pytest.raises(ConfigurationError) as refused:
        key_ring(settings)
    assert refused.value.problems == tuple(sorted(problems))


def test_without_keys_one_is_made_beside_the_sqlite_database(tmp_path: Path) -> None:
    settings = over(f"sqlite:///{tmp_path}/gateway.db")
    assert key_problems(settings) == ()
    assert list(tmp_path.iterdir()) == []
    ring = key_ring(settings)
    made = tmp_path / "gateway.db.key.pem"
    assert list(tmp_path.iterdir()) == [made]
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert key_ring(settings).jwks() == ring.jwks()
    assert ring.get(ring.signer.kid) is ring.signer


@pytest.mark.parametrize(
    ("database", "path"),
    [
        ("sqlite:///gateway.db", "gateway.db.key.pem"),
        ("sqlite:///data/gateway.db", "data/gateway.db.key.pem"),
        ("sqlite:////var/lib/gateway.db", "/var/lib/gateway.db.key.pem"),
        ("sqlite+aiosqlite:////var/lib/gateway.db?timeout=5", "/var/lib/gateway.db.key.pem"),
        ("sqlite://", None),
        ("sqlite:///", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///:memory:?cache=shared", None),
    ],
)
def test_the_made_key_lies_beside_the_database_and_nowhere_for_one_in_memory(database: str, path: str | None) -> None:
    assert made_key_path(over(database)) == (None if path is None else Path(path))


def test_a_database_in_memory_has_a_key_that_is_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert key_ring(over("sqlite://")).jwks() != key_ring(over("sqlite://")).jwks()
    assert list(tmp_path.iterdir()) == []


def test_postgresql_without_keys_is_refused_with_the_command_to_run() -> None:
    with pytest.raises(ConfigurationError) as refused:
        key_ring(over(POSTGRESQL))
    message = "must name a signing key, which all processes on one PostgreSQL database share (gateway keys generate)"
    assert refused.value.problems == (Problem("", 1, 1, "tokens.keys", message),)
