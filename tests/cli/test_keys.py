"""`gateway keys`: what it writes, what it shows, and what it never shows."""

import stat
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.cli.running import one_plain_line, run

KINDS = {"ES256": EllipticCurvePrivateKey, "EdDSA": Ed25519PrivateKey, "RS256": RSAPrivateKey}


@pytest.mark.parametrize("algorithm", list(KINDS))
def test_a_key_is_written_for_its_owner_alone(tmp_path: Path, algorithm: str) -> None:
    outcome = run("keys", "generate", "--algorithm", algorithm, "--kid", "k1", folder=tmp_path)
    assert outcome.code == 0
    path = tmp_path / "k1.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert isinstance(load_pem_private_key(path.read_bytes(), None), KINDS[algorithm])
    assert "PRIVATE KEY" not in outcome.out + outcome.err


def test_standard_output_is_the_configuration_to_paste(tmp_path: Path) -> None:
    outcome = run("keys", "generate", "--kid", "1e3", "--out", "a b.pem", folder=tmp_path)
    assert yaml.safe_load(outcome.out) == {
        "tokens": {"keys": [{"kid": "1e3", "algorithm": "ES256", "private_key": "${file:a b.pem}"}]}
    }
    assert "a b.pem" in outcome.err


def test_what_is_pasted_passes_the_check(tmp_path: Path) -> None:
    pasted = "".join(
        run("keys", "generate", "--algorithm", algorithm, folder=tmp_path).out.split("keys:\n")[1]
        for algorithm in KINDS
    )
    config = tmp_path / "config" / "gateway.yaml"
    config.parent.mkdir()
    config.write_text(f"tokens:\n  keys:\n{pasted}{ONE_ROUTE}")
    outcome = run("check", "--strict", folder=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")


ONE_ROUTE = """
upstreams: {web: http://127.0.0.1:9000}
routes: [{path: /**, upstream: web}]
"""


def test_keys_without_a_name_get_different_ones(tmp_path: Path) -> None:
    for _ in range(2):
        assert run("keys", "generate", folder=tmp_path).code == 0
    assert len(list(tmp_path.glob("k-*.pem"))) == 2


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    run("keys", "generate", "--kid", "k1", folder=tmp_path)
    before = (tmp_path / "k1.pem").read_bytes()
    outcome = run("keys", "generate", "--kid", "k1", folder=tmp_path)
    assert outcome.code == 2
    assert "--out" in one_plain_line(outcome.err)
    assert (tmp_path / "k1.pem").read_bytes() == before


def test_a_start_script_may_ask_for_a_key_again_and_again(tmp_path: Path) -> None:
    arguments = ["keys", "generate", "--if-absent", "--kid", "k1"]
    assert run(*arguments, folder=tmp_path).code == 0
    before = (tmp_path / "k1.pem").read_bytes()
    assert run(*arguments, folder=tmp_path).code == 0
    assert (tmp_path / "k1.pem").read_bytes() == before


def test_the_private_key_is_shown_where_that_is_asked_for(tmp_path: Path) -> None:
    outcome = run("keys", "generate", "--out", "-", folder=tmp_path)
    assert isinstance(load_pem_private_key(outcome.out.encode(), None), EllipticCurvePrivateKey)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "no/such/folder/k.pem"], "No such file or directory"),
        (["--kid", "a/b"], "letters, digits"),
        (["--kid", ""], "letters, digits"),
        (["--algorithm", "HS256"], "'HS256' is not one of"),
    ],
)
def test_a_key_that_cannot_be_made_is_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    outcome = run("keys", "generate", *arguments, folder=tmp_path)
    assert outcome.code == 2
    assert said in one_plain_line(outcome.err)
