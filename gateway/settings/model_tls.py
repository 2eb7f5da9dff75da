"""Settings of TLS on the public listener."""

from typing import Any, Literal

from gateway.settings.declare import section, setting
from gateway.settings.reader import INVALID, Invalid, Reader, Scalar
from gateway.settings.types import Enum, JsonSchema
from gateway.settings.types_compound import ListOf, Section
from gateway.settings.types_network import FilePath
from gateway.settings.yaml import MappingNode


class TlsVersion(Enum):
    """A version of TLS. `minimum: 1.2` without quotes is a number in YAML, and means the same."""

    def __init__(self) -> None:
        super().__init__("1.2", "1.3")

    def accept(self, scalar: Scalar) -> str:
        return scalar.text if scalar.text in self.choices else super().accept(scalar)


@section
class CertificateSettings:
    """A certificate of the public listener."""

    certificate: str = setting(FilePath(), "A PEM file with the certificate, followed by its intermediates.")
    key: str | None = setting(
        FilePath(private=True).or_null(),
        "A PEM file with its private key, readable by its owner only; null: the key is in `certificate`.",
        default=None,
    )
    client_ca: str | None = setting(
        FilePath().or_null(),
        "A PEM file of the authorities for client certificates, which are then required; null: none are.",
        default=None,
    )
    minimum: Literal["1.2", "1.3"] = setting(TlsVersion(), "The oldest accepted version of TLS.", default="1.2")


class CertificatesKind(ListOf[CertificateSettings]):
    """One certificate, or a list of them, of which each connection gets one by the name that its client asks for."""

    def __init__(self) -> None:
        super().__init__(Section(CertificateSettings), "a mapping or a list of mappings", least=1)
        self.words = "mapping, or list of mappings"
        self.right = "for example {certificate: cert.pem, key: key.pem}"

    def read_mapping(self, node: MappingNode, path: str, reader: Reader) -> tuple[CertificateSettings, ...] | Invalid:
        certificate = self.kind.read_mapping(node, path, reader)
        return INVALID if certificate is INVALID else (certificate,)

    def write(self, value: tuple[CertificateSettings, ...]) -> Any:
        return self.kind.write(value[0]) if len(value) == 1 else super().write(value)

    def schema(self) -> JsonSchema:
        return {"anyOf": [self.kind.schema(), super().schema()]}


def certificate_key(certificates: tuple[CertificateSettings, ...], number: int) -> str:
    """The key of a certificate in the file."""
    return "server.tls" if len(certificates) == 1 else f"server.tls[{number}]"
