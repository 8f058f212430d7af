"""From TLS settings to what the sockets need: certificates, keys, CAs and CRLs read and checked.

Rules: everything is read by a load, and nothing later, so that a broken file fails the load and
what is in force stays; a fault names its setting. No text shows anything of a key.
"""

import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pooler import tls
from pooler.config import model
from pooler.core.settings import SslMode, TargetTls
from pooler.wire.logins import ALPN

SYSTEM: Final = "system"
"""In place of a `ca_file`: the CAs that the operating system trusts, as libpq's `sslrootcert`."""

_VERSIONS: Final = {
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}

Read = Callable[[str], bytes | str]
"""Returns a file's bytes, or why it can not be read, as a predicate."""


class Files(Protocol):
    """What the settings of both directions have; files with their whole path."""

    @property
    def cert_file(self) -> str: ...
    @property
    def key_file(self) -> str: ...
    @property
    def ca_file(self) -> str: ...
    @property
    def crl_file(self) -> str: ...
    @property
    def min_protocol_version(self) -> str: ...
    @property
    def ciphers(self) -> str: ...


class TlsFault(Exception):
    """What is wrong with one of the settings, as a predicate of it."""

    def __init__(self, key: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.key, self.message, self.hint = key, message, hint


@dataclass(frozen=True, slots=True)
class ClientSide:
    """What clients are offered."""

    context: ssl.SSLContext
    binding: bytes
    """Of our certificate, for SCRAM-SHA-256-PLUS; b"" where it has none."""
    expires: float
    """End of its validity, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """The files for clients with their whole path."""

    cert_file: str
    key_file: str
    ca_file: str
    crl_file: str
    min_protocol_version: str
    ciphers: str


def listening(settings: model.Tls, base: str) -> ClientFiles | None:
    """Return what clients are to be offered; None: no TLS. Files are relative to `base`."""
    if settings.sslmode is SslMode.DISABLE or not settings.cert_file or not settings.key_file:
        return None
    return ClientFiles(
        _path(base, settings.cert_file),
        _path(base, settings.key_file),
        _path(base, settings.ca_file),
        _path(base, settings.crl_file),
        settings.min_protocol_version,
        settings.ciphers,
    )


def target(settings: model.ServerTls, own: model.DatabaseTls, base: str) -> TargetTls:
    """Return how a database's servers are to be spoken to."""
    values: dict[str, Any] = settings.model_dump() | own.model_dump(exclude_none=True)
    for key in ("ca_file", "crl_file", "cert_file", "key_file"):
        values[key] = _path(base, values[key])
    return TargetTls(**values)


def _path(base: str, file: str) -> str:
    return os.path.join(base, file) if file and file != SYSTEM else file


def for_clients(files: Files, read: Read) -> ClientSide:
    """Return what clients are offered; TlsFault. A certificate that one shows has to be right."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # libpq resumes no sessions: tickets would be work and bytes for nothing (as in PostgreSQL).
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    _configure(context, files, read)
    if files.ca_file:
        context.verify_mode = ssl.CERT_OPTIONAL  # who has to have one is the login's business
    own = _first_certificate(files, read)
    return ClientSide(context, tls.end_point(own), tls.expiry(own))


def for_servers(settings: TargetTls, read: Read) -> ssl.SSLContext:
    """Return how servers are spoken to; TlsFault.

    As libpq, `require` verifies when there is a CA; `allow` and `prefer`, which would go on in
    the clear when that failed, never do.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    mode = settings.sslmode
    context.check_hostname = mode is SslMode.VERIFY_FULL
    verify = mode.verifies or (mode is SslMode.REQUIRE and settings.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    _configure(context, settings, read)
    return context


class Certificates:
    """All that the TLS settings of a configuration name, as it was when they were loaded."""

    def __init__(self) -> None:
        self.clients: ClientSide | None = None
        """What clients are offered; None: no TLS."""
        self.targets: dict[str, TargetTls] = {}
        """How the servers of each configured database are spoken to."""
        self.servers: dict[TargetTls, ssl.SSLContext] = {}
        self.digests: dict[str, str] = {}
        """Of each file, to tell what has changed."""


def _configure(context: ssl.SSLContext, files: Files, read: Read) -> None:
    context.minimum_version = _VERSIONS[files.min_protocol_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN])
    if files.ciphers:
        try:
            context.set_ciphers(files.ciphers)
        except ssl.SSLError:
            raise TlsFault(
                "ciphers",
                "names no cipher that OpenSSL has",
                "write a list as `openssl ciphers` takes it, such as HIGH:!aNULL",
            ) from None
    if files.cert_file and files.key_file:
        _load_own(context, files, read)
    if files.ca_file == SYSTEM:
        context.set_default_verify_paths()
    elif files.ca_file:
        _load_ca(context, files.ca_file, read)
    if files.crl_file:
        _load_crl(context, files.crl_file, read)


def _pem(key: str, file: str, read: Read) -> str:
    data = read(file)
    if isinstance(data, str):
        raise TlsFault(key, f"the file {data}")
    if b"-----BEGIN " not in data:
        raise TlsFault(key, "the file is not in PEM format", "convert it: openssl x509 -inform DER")
    return data.decode("latin-1")


def _first_certificate(files: Files, read: Read) -> bytes:
    """Return our own certificate (DER), which the file has before its issuers'."""
    text = _pem("cert_file", files.cert_file, read)
    start, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    body = text[text.find(start) :].partition(end)[0]
    return ssl.PEM_cert_to_DER_cert(f"{body}{end}\n")


def _load_own(context: ssl.SSLContext, files: Files, read: Read) -> None:
    if "CERTIFICATE-----" not in _pem("cert_file", files.cert_file, read):
        raise TlsFault("cert_file", "the file holds no certificate")
    if "PRIVATE KEY-----" not in _pem("key_file", files.key_file, read):
        raise TlsFault("key_file", "the file holds no private key")
    _check_access(files.key_file)
    try:
        context.load_cert_chain(files.cert_file, files.key_file, password=_no_passphrase)
    except _Encrypted:
        raise TlsFault(
            "key_file",
            "the key is encrypted, and nobody is there to type its passphrase",
            "store it without: openssl pkey -in KEY -out NEW",
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFault("key_file", "the key is not the one of the certificate") from None
        raise TlsFault("cert_file", f"can not be used with its key: {tls.why(error)}") from None
    except OSError as error:
        raise TlsFault("key_file", f"the file can not be read: {error.strerror}") from None


class _Encrypted(Exception):
    pass


def _no_passphrase() -> str:
    raise _Encrypted


def _check_access(file: str) -> None:
    """Refuse a key that others can read, as PostgreSQL and libpq do."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise TlsFault("key_file", f"the file can not be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise TlsFault("key_file", "is not a regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise TlsFault("key_file", "the file must be owned by the pooler's user or by root")
    # Of root's, a group may read: so do keys kept by the system for several services.
    allowed = stat.S_IRGRP if found.st_uid == 0 else 0
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~allowed:
        raise TlsFault(
            "key_file",
            "the file can be read or written by others",
            "chmod 600, or 640 where it belongs to root",
        )


def _load_ca(context: ssl.SSLContext, file: str, read: Read) -> None:
    text = _pem("ca_file", file, read)
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise TlsFault("ca_file", f"the file holds no certificate: {tls.why(error)}") from None


def _load_crl(context: ssl.SSLContext, file: str, read: Read) -> None:
    if "X509 CRL-----" not in _pem("crl_file", file, read):
        raise TlsFault("crl_file", "the file holds no revocation list")
    try:
        context.load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError) as error:
        raise TlsFault("crl_file", f"the file can not be used: {tls.why(error)}") from None
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN  # the whole chain, as PostgreSQL
