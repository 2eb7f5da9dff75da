"""Kinds with special rules: networks, header names, secrets, files, addresses of stores."""

import os
import stat
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from re import fullmatch, sub
from typing import Final, TypeAlias

from gateway.settings.reader import INVALID, Invalid, InvalidValue, Reader, Scalar, quoted
from gateway.settings.secret import Secret
from gateway.settings.syntax import TCHARS, own_prefix, role_name
from gateway.settings.types import JsonSchema, ScalarKind, Text, text_of
from gateway.settings.yaml import ScalarNode

Network: TypeAlias = IPv4Network | IPv6Network

# Container runtimes mount secrets there, readable by everyone in the container, which holds a single service.
MOUNTED_SECRETS: Final = (Path("/run/secrets"), Path("/var/run/secrets"))

# Headers with a meaning in HTTP, for the client's credentials, or for the gateway (RFC 9110, 9112, 6265, 6750). An
# identity header of the same name would break requests or be overwritten.
_TAKEN_HEADERS: Final = frozenset((
    "host", "te", "trailer", "transfer-encoding", "connection", "keep-alive", "upgrade", "expect", "range", "date",
    "from", "origin", "referer", "user-agent", "authorization", "cookie", "set-cookie", "cookie2", "via",
    "forwarded", "max-forwards", "cache-control", "pragma", "priority", "accept", "x-real-ip", "x-request-id",
    "x-rewrite-url", "http2-settings", "traceparent", "tracestate", "x-forwarded-for", "x-forwarded-proto",
    "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server", "x-forwarded-method",
    "x-forwarded-uri", "x-forwarded", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip",
    "fastly-client-ip", "x-http-method-override", "x-http-method", "x-method-override", "proxy",
    "script-name", "path-info", "x-script-name", "daphne-root-path",
))  # fmt: skip
_TAKEN_PREFIXES: Final = ("content-", "accept-", "if-", "sec-", "proxy-", "access-control-", "x-original-")


def folded(header: str) -> str:
    """A header name as seen by the laxest upstream: CGI maps all characters except letters and digits to one
    (CVE-2025-64484)."""
    return sub("[^a-z0-9]", "-", header.lower())


class NetworkKind(ScalarKind[Network]):
    """A network in CIDR notation. A single address is a network of one."""

    words = "network"
    expected = "a network in CIDR notation"
    right = 'for example 10.0.0.0/8 or "fd00::/8"'

    def accept(self, scalar: Scalar) -> Network:
        text = text_of(scalar, self.expected)
        if "%" in text:
            raise self.unacceptable()
        try:
            return ip_network(text)
        except ValueError:
            pass
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            raise self.unacceptable() from None
        raise InvalidValue("must be a network, not an address in one", str(network))

    def write(self, value: Network) -> str:
        return str(value)

    def schema(self) -> JsonSchema:
        return {"type": "string", "minLength": 2}


class HeaderName(Text):
    """The name of a header set by the gateway, without another meaning."""

    def __init__(self) -> None:
        super().__init__("a header name", check=self._checked, words="header name", pattern=f"^{TCHARS}$")
        self.right = "for example X-User-Id"

    def _checked(self, text: str) -> str:
        if not fullmatch(TCHARS, text):
            raise self.unacceptable()
        name = folded(text)
        if name in _TAKEN_HEADERS or name.startswith(_TAKEN_PREFIXES):
            raise InvalidValue("must not be a header with a meaning of its own", "for example X-User-Id")
        return text


class RoleName(Text):
    """A role. Its path is recorded, because the declared roles are known only at the end of the file."""

    def __init__(self) -> None:
        super().__init__("a role name", check=role_name, words="role")

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> str | Invalid:
        role = super().read_scalar(scalar, node, path, reader)
        if role is not INVALID:
            reader.roles_named.append((path, role))
        return role


class Prefix(Text):
    """The path prefix of the gateway's own accounts; "" is the root."""

    def __init__(self) -> None:
        super().__init__("a path prefix", check=own_prefix, words="path prefix", pattern="^(/[A-Za-z0-9_.~-]+)*$")
        self.right = 'for example /auth, or "" for the root'

    def accept(self, scalar: Scalar) -> str:
        if scalar.text == "" and (scalar.source or not scalar.plain):
            return ""
        return super().accept(scalar)


class StoreAddress(ScalarKind[Secret]):
    """The address of a database or a Redis, which can contain a password."""

    words = "address"

    def __init__(self, expected: str, check: Callable[[str], str]) -> None:
        self.expected = expected
        self.check = check

    def accept(self, scalar: Scalar) -> Secret:
        text = text_of(scalar, self.expected)
        if not text.strip() or not text.isprintable():
            raise self.unacceptable()
        return Secret(self.check(text))

    def found(self, scalar: Scalar) -> str:
        if scalar.hidden or scalar.is_null:
            return scalar.found
        if "://" in scalar.text:
            return quoted(Secret(scalar.text).shown)
        # `host=db password=…` and `user:password@db` are not addresses but contain passwords.
        return "a value that is not shown" if set("=@") & set(scalar.text) else scalar.found

    def write(self, value: Secret) -> str:
        return value.shown

    def schema(self) -> JsonSchema:
        return {"type": "string", "minLength": 1}


class SecretText(ScalarKind[Secret]):
    """A secret text. `check` raises InvalidValue for unsuitable ones.

    A file it is read from must not be readable by others, except below MOUNTED_SECRETS.
    """

    words = "secret"

    def __init__(self, expected: str, right: str, check: Callable[[str], str]) -> None:
        self.expected = expected
        self.right = right
        self.check = check

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> Secret | Invalid:
        secret = super().read_scalar(scalar, node, path, reader)
        if secret is not INVALID and not scalar.source:
            reader.warn_at(
                path, "secret-in-file", "is visible to every reader of the file (take it from ${NAME} or ${file:PATH})"
            )
        return secret

    def accept(self, scalar: Scalar) -> Secret:
        if not scalar.text.strip() or scalar.is_null:
            raise self.unacceptable()
        for file in scalar.files:
            check_private(file)
        return Secret(self.check(scalar.text))

    def found(self, scalar: Scalar) -> str:
        return scalar._replace(hidden=True).found

    def write(self, value: Secret) -> str:
        return value.shown

    def schema(self) -> JsonSchema:
        return {"type": "string", "minLength": 1}


class FilePath(Text):
    """An existing, readable file. `private`: not readable by others. `content`: a further check."""

    def __init__(self, *, private: bool = False, content: Callable[[str], str] | None = None) -> None:
        super().__init__("the path of a file", check=self._checked, words="path")
        self.private = private
        self.content = content

    def _checked(self, text: str) -> str:
        path = Path(text)
        try:
            # Opening a pipe without a writer would block.
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            raise InvalidValue(_unreadable(error)) from None
        if self.private:
            check_private(path)
        return text if self.content is None else self.content(text)


class FolderPath(Text):
    """An existing folder."""

    def __init__(self) -> None:
        super().__init__("the path of a folder", check=self._checked, words="path")

    def _checked(self, text: str) -> str:
        if Path(text).is_dir():
            return text
        raise InvalidValue("must be an existing folder", "create it, or leave the key out")


def check_private(file: Path) -> None:
    """Raise InvalidValue for a key file that other users can read."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError as error:  # removed since it was read
        raise InvalidValue(f"the file '{file}' {_unreadable(error)}", shows_value=False) from None
    mounted = any(file.resolve().is_relative_to(folder) for folder in MOUNTED_SECRETS)
    if mode & 0o077 and not mounted:
        message = f"the file '{file}' can be read by others, its mode is {mode:04o}"
        raise InvalidValue(message, f"chmod 600 {file}", shows_value=False)


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or type(error).__name__}"
