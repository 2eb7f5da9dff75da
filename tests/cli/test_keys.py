"""`gateway keys`: the files it writes, and the data it shows or hides."""

import json
import stat
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.cli.running import one_plain_line, run_here

KINDS = {"ES256": EllipticCurvePrivateKey, "EdDSA": Ed25519PrivateKey, "RS256": RSAPrivateKey}


@pytest.mark.parametrize("algorithm", list(KINDS))
def test_a_key_is_written_for_its_owner_alone(tmp_path: Path, algorithm: str) -> None:
    outcome = run_here("keys", "generate", "--algorithm", algorithm, "--kid", "k1", folder=tmp_path)
    assert outcome.code == 0
    path = tmp_path / "k1.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert isinstance(load_pem_private_key(path.read_bytes(), None), KINDS[algorithm])
    assert "PRIVATE KEY" not in outcome.out + outcome.err


def test_standard_output_is_the_configuration_to_paste(tmp_path: Path) -> None:
    outcome = run_here("keys", "generate", "--kid", "1e3", "--out", "a b.pem", folder=tmp_path)
    assert yaml.safe_load(outcome.out) == {
        "tokens": {"keys": [{"kid": "1e3", "algorithm": "ES256", "private_key": "${file:a b.pem}"}]}
    }
    assert "a b.pem" in outcome.err


def test_the_printed_text_passes_the_check(tmp_path: Path) -> None:
    pasted = "".join(
        run_here("keys", "generate", "--algorithm", algorithm, folder=tmp_path).out.split("keys:\n")[1]
        for algorithm in KINDS
    )
    config = tmp_path / "config" / "gateway.yaml"
    config.parent.mkdir()
    config.write_text(f"tokens:\n  keys:\n{pasted}{ONE_ROUTE.replace('/**', '/a')}accounts: {{registration: closed}}\n")
    outcome = run_here("check", "--strict", folder=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")


def test_listed_keys_show_use_and_fingerprint_and_nothing_secret(tmp_path: Path) -> None:
    entries = "".join(
        run_here("keys", "generate", "--algorithm", algorithm, "--kid", algorithm, folder=tmp_path).out.split(
            "keys:\n"
        )[1]
        for algorithm in KINDS
    )
    secret = "    - {kid: old, algorithm: HS256, secret: 'a secret of thirty-two characters'}\n"
    (tmp_path / "g.yaml").write_text(f"tokens:\n  keys:\n{entries}{secret}{ONE_ROUTE}")
    keys = json.loads(run_here("keys", "list", "--config", "g.yaml", "--json", folder=tmp_path).out)
    assert [(key["kid"], key["algorithm"], key["signs"], key["from"]) for key in keys] == [
        ("ES256", "ES256", True, "tokens.keys[0]"),
        ("EdDSA", "EdDSA", False, "tokens.keys[1]"),
        ("RS256", "RS256", False, "tokens.keys[2]"),
        ("old", "HS256", False, "tokens.keys[3]"),
    ]
    assert [len(key["fingerprint"] or "") for key in keys] == [43, 43, 43, 0]
    shown = run_here("keys", "list", "--config", "g.yaml", folder=tmp_path)
    assert shown.code == 0
    assert "PRIVATE" not in shown.out
    assert "thirty-two" not in shown.out
    lines = shown.out.splitlines()
    assert lines[1].split()[:4] == ["ES256", "ES256", "signs,", "verifies"]
    assert keys[0]["fingerprint"] in lines[1]


def test_the_fingerprint_is_the_key_id_of_a_key_that_the_gateway_made(tmp_path: Path) -> None:
    """The gateway names a generated key by its thumbprint, so both computations must agree."""
    (tmp_path / "g.yaml").write_text(ONE_ROUTE)
    run_here("keys", "generate", "--out", "gateway.db.key.pem", folder=tmp_path)
    (key,) = json.loads(run_here("keys", "list", "--config", "g.yaml", "--json", folder=tmp_path).out)
    assert key["kid"] == key["fingerprint"]
    assert (key["signs"], key["from"]) == (True, "gateway.db.key.pem")


def test_listing_makes_no_key(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(ONE_ROUTE)
    outcome = run_here("keys", "list", "--config", "g.yaml", folder=tmp_path)
    assert (outcome.code, "has no key" in outcome.out) == (0, True)
    assert run_here("keys", "list", "--config", "g.yaml", "--json", folder=tmp_path).out == "[]\n"
    assert [path.name for path in tmp_path.iterdir()] == ["g.yaml"]


ONE_ROUTE = """
upstreams: {web: http://127.0.0.1:9000}
routes: [{path: /**, upstream: web}]
"""


def test_keys_without_a_name_get_different_ones(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_here("keys", "generate", folder=tmp_path).code == 0
    assert len(list(tmp_path.glob("k-*.pem"))) == 2


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    run_here("keys", "generate", "--kid", "k1", folder=tmp_path)
    before = (tmp_path / "k1.pem").read_bytes()
    outcome = run_here("keys", "generate", "--kid", "k1", folder=tmp_path)
    assert outcome.code == 2
    assert "--out" in one_plain_line(outcome.err)
    assert (tmp_path / "k1.pem").read_bytes() == before


def test_a_start_script_may_ask_for_a_key_again_and_again(tmp_path: Path) -> None:
    arguments = ["keys", "generate", "--if-absent", "--kid", "k1"]
    assert run_here(*arguments, folder=tmp_path).code == 0
    before = (tmp_path / "k1.pem").read_bytes()
    assert run_here(*arguments, folder=tmp_path).code == 0
    assert (tmp_path / "k1.pem").read_bytes() == before


def test_the_private_key_is_shown_where_that_is_asked_for(tmp_path: Path) -> None:
    outcome = run_here("keys", "generate", "--out", "-", folder=tmp_path)
    assert isinstance(load_pem_private_key(outcome.out.encode(), None), EllipticCurvePrivateKey)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "no/such/folder/k.pem"], "No such file or directory"),
        (["--kid", "a/b"], "letters, digits"),
        (["--kid", ""], "letters, digits"),
        (["--algorithm", "HS256"], "'HS256' is not one of"),
    ],
)
def test_a_key_that_cannot_be_made_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = run_here("keys", "generate", *arguments, folder=tmp_path)
    assert outcome.code == 2
    assert message in one_plain_line(outcome.err)
