"""`gateway keys`: generate signing keys, and list those of a configuration."""

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.cli.configuration import config_option, json_option, loaded
from gateway.cli.output import print_json, print_table, say
from gateway.errors import CannotStart, cannot_read
from gateway.identity.keys import VerifyingKey
from gateway.identity.signing_keys import kept_key, key_ring, made_key_path
from gateway.settings.model import Settings

_MAKERS: Final[Mapping[str, Callable[[], PrivateKeyTypes]]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    # NIST SP 800-57 part 1 allows RSA with 2048 bits until 2030 only.
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=3072),
}
_COLUMNS: Final = ("KID", "ALGORITHM", "USE", "FINGERPRINT", "FROM")
_KID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@click.group("keys")
def command() -> None:
    """Make and list the keys that sign tokens."""


def _checked_kid(context: click.Context, parameter: click.Parameter, kid: str | None) -> str:
    if kid is None:
        return f"k-{secrets.token_hex(4)}"
    if not _KID.fullmatch(kid):
        raise click.BadParameter("1 to 64 letters, digits, '.', '_' and '-' make a key id.")
    return kid


@command.command("generate")
@click.option(
    "--algorithm",
    type=click.Choice(list(_MAKERS)),
    default="ES256",
    show_default=True,
    help="The signature algorithm.",
)
@click.option("--kid", callback=_checked_kid, help="The key's id in tokens.  [default: random]")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The file for the private key; '-' prints it.  [default: KID.pem]",
)
@click.option("--if-absent", is_flag=True, help="Succeed without changes if the file exists.")
def generate(algorithm: str, kid: str, out: Path | None, if_absent: bool) -> None:
    """Make a private key, and show the configuration that uses it.

    The private key is written to a file that only its owner can read; --out - prints it instead. The configuration to
    paste goes to standard output.
    """
    path = out or Path(f"{kid}.pem")
    if if_absent and path.exists():
        say(f"{path} exists and is unchanged.", err=True)
        return
    pem = _MAKERS[algorithm]().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if path == Path("-"):
        say(pem.decode("ascii").rstrip())
        return
    _write_new(path, pem)
    say(f"Wrote the {algorithm} key {kid} to {path}, readable only by its owner.", err=True)
    say(
        "The first key signs and all verify. To rotate without invalidating tokens, reload every replica (SIGHUP)",
        err=True,
    )
    say("after each step: add the new key second; move it first; remove the old one after tokens.access_ttl.", err=True)
    say(_to_paste(kid, algorithm, path))


def _write_new(path: Path, pem: bytes) -> None:
    """Write a file that only its owner can read. Raises CannotStart if it exists or cannot be created."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise CannotStart(f"{path} exists, and keys are never overwritten; choose another --out") from None
    except OSError as error:
        raise CannotStart(f"{cannot_read(path, error)}; choose a writable place with --out") from None


def _to_paste(kid: str, algorithm: str, path: Path) -> str:
    # JSON's quoting is valid YAML, and keeps a kid such as 1e3 a string.
    place = json.dumps(f"${{file:{path}}}", ensure_ascii=False)
    return f"tokens:\n  keys:\n    - {{kid: {json.dumps(kid)}, algorithm: {algorithm}, private_key: {place}}}"


@command.command("list")
@config_option
@json_option
def list_(config: Path, as_json: bool) -> None:
    """Show the keys of a configuration: the first signs, all verify."""
    settings = loaded(config).settings
    keys = [_listed(key, place, signs=not index) for index, (key, place) in enumerate(_keys(settings))]
    if as_json:
        print_json(keys)
    elif keys:
        print_table(_COLUMNS, [_row(key) for key in keys])
    else:
        say("The configuration has no key; the gateway creates one beside the database when it starts.")


def _keys(settings: Settings) -> list[tuple[VerifyingKey, str]]:
    """Each key and its source. This does not create the key that `serve` would create."""
    if settings.tokens.keys:
        ring = key_ring(settings)
        found = [(ring.get(key.kid), f"tokens.keys[{index}]") for index, key in enumerate(settings.tokens.keys)]
        return [(key, place) for key, place in found if key is not None]
    path = made_key_path(settings)
    return [(kept_key(path), str(path))] if path is not None and path.exists() else []


def _listed(key: VerifyingKey, place: str, *, signs: bool) -> dict[str, Any]:
    jwk = key.jwk()
    fingerprint = None if jwk is None else _fingerprint(jwk)
    return {"kid": key.kid, "algorithm": key.algorithm, "signs": signs, "fingerprint": fingerprint, "from": place}


def _fingerprint(jwk: Mapping[str, str]) -> str:
    """The thumbprint of a public key (RFC 7638). Secrets have none, because it would allow guessing a short one."""
    required = {name: jwk[name] for name in sorted(jwk.keys() - {"use", "alg", "kid"})}
    digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _row(key: Mapping[str, Any]) -> tuple[str, ...]:
    use = "signs, verifies" if key["signs"] else "verifies"
    return key["kid"], key["algorithm"], use, key["fingerprint"] or "(a secret)", key["from"]
