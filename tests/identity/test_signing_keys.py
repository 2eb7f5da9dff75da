"""The generated signing key: persistent, private, and unique."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.errors import CannotStart
from gateway.identity.signing_keys import ephemeral_key, kept_key
from tests.support.token_factory import shared_rsa_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db.key.pem"


def written(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_a_key_is_made_once_for_its_owner_alone(path: Path) -> None:
    made = kept_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.algorithm == "ES256"
    again = kept_key(path)
    assert again.jwk() == made.jwk()
    assert again.verifies(b"message", made.sign(b"message"))
    assert list(path.parent.iterdir()) == [path]


def test_the_umask_does_not_open_it(path: Path) -> None:
    before = os.umask(0)
    try:
        kept_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_ephemeral_key_is_another_one_each_time() -> None:
    assert ephemeral_key().kid != ephemeral_key().kid


def test_processes_that_start_at_once_agree_on_one_key(path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from gateway.identity.signing_keys import kept_key\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(kept_key(pathlib.Path(sys.argv[1])).kid)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    root = Path(__file__).parents[2]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    ids = {racer.communicate(timeout=30)[0].strip() for racer in racers}
    assert ids == {kept_key(path).kid}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
def test_a_key_readable_by_others_is_refused_with_the_command_that_helps(path: Path, mode: int) -> None:
    kept_key(path)
    path.chmod(mode)
    with pytest.raises(CannotStart, match=f"mode {mode:04o}.; run: chmod 600 ") as refused:
        kept_key(path)
    assert "\n" not in str(refused.value)


def private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "found something else; move it away"),
        (b"garbage \xff\xfe\0", "found something else; move it away"),
        (private(ec.generate_private_key(ec.SECP256R1()))[:100], "found something else; move it away"),
        (private(ec.generate_private_key(ec.SECP384R1())), "must be an elliptic curve key on P-256"),
        (private(shared_rsa_key(0)), "must be an elliptic curve key on P-256"),
        (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "found a public one",
        ),
    ],
    ids=["empty", "garbage", "truncated", "P-384", "RSA", "public"],
)
def test_a_file_that_holds_no_such_key_is_refused_and_left_alone(path: Path, content: bytes, why: str) -> None:
    written(path, content)
    with pytest.raises(CannotStart, match=why) as refused:
        kept_key(path)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


def test_a_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(CannotStart, match=r"not a regular file|Is a directory"):
        kept_key(path)


def test_a_pipe_in_its_place_is_refused_without_waiting_for_a_writer(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(CannotStart, match="not a regular file"):
        kept_key(path)


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        CannotStart, match=r"No such file or directory; the signing key is created there: run: mkdir -p /"
    ):
        kept_key(tmp_path / "missing" / "gateway.db.key.pem")


def test_a_name_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="it holds the key that signs tokens"):
        kept_key(tmp_path / ("x" * 300))


def test_a_dangling_link_is_reported(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))
    with pytest.raises(CannotStart, match="removed as soon as"):
        kept_key(path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
