"""What secures a federation, in one folder: a certificate authority, the SuperLink's certificate, keys of SuperNodes.

::

    ca.crt             everybody who talks to the SuperLink
    ca.key             nobody: kept for new certificates
    server.crt, .key   the SuperLink, and a proxy before it
    superexec.secret   the SuperLink, and who runs its server apps; no SuperNode
    node-0, .secret    the SuperNode 0, and who runs its client apps; node-0.pub is registered at the SuperLink

Private files can be read by their owner alone. What is there is kept, but for the server's certificate, which is made
anew: for more nodes, other hosts, or another year, call it again.
"""

import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flowerpress.errors import ConfigError

_CA_DAYS = 3650
_SKEW = timedelta(minutes=5)  # clocks differ


@dataclass(frozen=True)
class Credentials:
    """The files in a folder."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, hosts: Sequence[str], nodes: int, *, days: int = 365) -> Self:
        """Make what is missing, and the server's certificate.

        Parameters
        ----------
        folder : Path
            Made if it is not there, for its owner alone.
        hosts : sequence of str
            Names and addresses by which the SuperLink is reached.
        nodes : int
            How many SuperNodes have a key and a secret.
        days : int
            How long the server's certificate is valid: at most ten years, as the authority's is.

        Raises
        ------
        ConfigError
            Without hosts, for a host that no certificate can name, for a certificate that would be valid for less than
            a day or longer than its authority's, or for an authority in the folder that cannot be read.
        """
        if not hosts or days < 1:
            raise ConfigError(f"expected hosts, and certificates of a day or more, found {list(hosts)} and {days} days")
        if days > _CA_DAYS:
            raise ConfigError(f"expected at most {_CA_DAYS} days, those of the authority's certificate, found {days}")
        for host in hosts:
            _name(host)  # now, and not when there is a folder
        found = cls(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found.issue(hosts, datetime.now(UTC) + timedelta(days=days))
        for secret in (found.secret, *map(found.node_secret, range(nodes))):
            if not secret.exists():
                _write(secret, secrets.token_bytes(48))
        for i in range(nodes):
            if not found.key(i).exists():
                _write_node_key(found.key(i))
        return found

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.folder / "server.crt"

    @property
    def private_key(self) -> Path:
        """The server's key."""
        return self.folder / "server.key"

    @property
    def secret(self) -> Path:
        """What a program that runs server apps shows to the SuperLink."""
        return self.folder / "superexec.secret"

    def node_secret(self, node: int) -> Path:
        """Return what a program that runs client apps shows to its SuperNode."""
        return self.folder / f"node-{node}.secret"

    def key(self, node: int) -> Path:
        """Return the private key of a SuperNode."""
        return self.folder / f"node-{node}"

    def public_key(self, node: int) -> Path:
        """Return what a SuperNode is registered by."""
        return self.folder / f"node-{node}.pub"

    def issue(self, hosts: Sequence[str], end: datetime) -> None:
        """Make the server's key and certificate, valid until then, and the authority if there is none."""
        ca_key, ca = self._authority()
        key = generate_private_key(SECP384R1())
        names = [_name(host) for host in hosts]
        certificate = (
            _certificate(hosts[0], key, ca.subject, end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA384())
        )
        _write(self.private_key, _pem(key))
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))

    def _authority(self) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
        ca_key = self.folder / "ca.key"
        if not ca_key.exists():
            key = generate_private_key(SECP384R1())
            name = _subject("flowerpress federation")
            usage = dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
            )
            made = (
                _certificate("flowerpress federation", key, name, datetime.now(UTC) + timedelta(days=_CA_DAYS))
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(
                    x509.KeyUsage(
                        digital_signature=True, key_cert_sign=True, crl_sign=True, decipher_only=False, **usage
                    ),
                    critical=True,
                )
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .sign(key, hashes.SHA384())
            )
            self.ca.write_bytes(made.public_bytes(Encoding.PEM))
            _write(ca_key, _pem(key))
        try:
            found = load_pem_private_key(ca_key.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
            raise ConfigError(
                f"{ca_key}, {self.ca.name}: expected the authority that was made here, found none that can be read: "
                f"{error}; restore both files, or remove them for another authority"
            ) from error
        if not isinstance(found, EllipticCurvePrivateKey):
            raise ConfigError(f"{ca_key}: expected the key that was made here, found another kind")
        return found, certificate


def _certificate(
    common_name: str, key: EllipticCurvePrivateKey, issuer: x509.Name, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(common_name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.now(UTC), end) - _SKEW)
        .not_valid_after(end)
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not host or not host.isascii():
            raise ConfigError(f"expected hosts by address, or by name in ASCII (xn--…), found {host!r}") from None
        return x509.DNSName(host)


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_node_key(path: Path) -> None:
    key = generate_private_key(SECP384R1())
    path.with_name(f"{path.name}.pub").write_bytes(
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"
    )
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def _write(path: Path, data: bytes) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    partial.replace(path)
