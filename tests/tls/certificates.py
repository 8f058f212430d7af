"""Certificates made for tests: an authority, its certificates, what is wrong with some of them."""

import datetime
import ipaddress
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def name(common: str, *more: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """A subject of a common name, after whatever comes before it."""
    parts = [*more, (NameOID.COMMON_NAME, common)]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    cert: Path
    key: Path

    def owned_by(self, owner: Path) -> Self:
        """Give the key to the owner of another file: PostgreSQL's own key must be its own."""
        found = owner.stat()
        for file in (self.cert, self.key):
            os.chown(file, found.st_uid, found.st_gid)
        return self

    def copy_to(self, other: Self) -> None:
        """Put this pair in the other's place, each file as one."""
        for source, target in ((self.cert, other.cert), (self.key, other.key)):
            new = target.with_suffix(".new")
            shutil.copy(source, new)
            new.chmod(0o600)
            new.replace(target)


class Authority:
    """A CA that signs into a folder."""

    def __init__(self, folder: Path, common: str = "test CA", above: "Authority | None" = None):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = name(common)
        self.above = above
        self._lists = 0
        signer = above or self
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(signer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - DAY)
            .not_valid_after(now() + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=True,
                    crl_sign=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .sign(signer.key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)
        self.file = folder / f"{common.replace(' ', '-')}.crt"
        self.file.write_bytes(self.pem)

    def issue(
        self,
        subject: x509.Name | str,
        hosts: Sequence[str] = (),
        *,
        file: str = "",
        days: int = 30,
        key: Key | None = None,
        algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
        password: bytes | None = None,
        chain: bool = True,
    ) -> Pair:
        """A certificate; `hosts` are names and addresses, `days` negative: it has expired."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        subject = name(subject) if isinstance(subject, str) else subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - 60 * DAY)
            .not_valid_after(now() + days * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self.key, algorithm or hashes.SHA256())
        encryption: KeySerializationEncryption = NoEncryption()
        if password:
            encryption = BestAvailableEncryption(password)
        stem = file or f"cert{certificate.serial_number % 10**9}"
        pair = Pair(self.folder / f"{stem}.crt", self.folder / f"{stem}.key")
        pem = certificate.public_bytes(Encoding.PEM)
        pair.cert.write_bytes(pem + (self.pem if chain and self.above else b""))
        pair.key.touch(0o600)
        pair.key.write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return pair

    def revoke(self, *pairs: Pair) -> Path:
        """A revocation list with these certificates on it."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.subject)
            .last_update(now() - DAY)
            .next_update(now() + DAY)
        )
        for pair in pairs:
            revoked = x509.load_pem_x509_certificate(pair.cert.read_bytes())
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(revoked.serial_number)
                .revocation_date(now() - DAY)
                .build()
            )
        self._lists += 1  # each in a file of its own
        file = self.folder / f"{self.file.stem}-{self._lists}.crl"
        file.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return file


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
