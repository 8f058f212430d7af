"""TLS on a connection that is already there: a link between its transport and its protocol.

`TlsLink` is the protocol of the transport below it and the transport of the protocol above it. It
keeps nothing: what is written is encrypted and handed down at once, what comes is decrypted and
handed up at once, so that buffer limits, pauses and brakes are those of the transport below.

Own code where uvloop has `start_tls`, because that has no place for bytes already received (direct
TLS), closes without the alert that tells the peer why, needs a task for each login, and holds
buffers of its own above those we limit; it is no faster (measured: 9.3 to 9.6 us for an echo of
100 bytes, 1.3 to 1.5 ms for a megabyte, against 9.3 and 1.5 to 1.8).

It knows no PostgreSQL message, no setting and no file.
"""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cryptography import x509

_RECORD: Final = 16_384
"""Bytes of plain text in a TLS record, at most."""
_SLICE: Final = 65_536
"""Bytes en- or decrypted in one go: OpenSSL's buffers keep the size of what was largest in them."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What is known of an encrypted connection and of who is at its other end."""

    version: str
    """Such as "TLSv1.3"."""
    cipher: str
    """OpenSSL's name of it."""
    verified: bool = False
    """The other end has shown a certificate, and it leads to our `ca_file`."""
    cn: str = ""
    """The verified certificate's common name (the first), "" where it has none."""
    dn: str = ""
    """Its subject in the form of RFC 2253, as OpenSSL and PostgreSQL (`clientname=DN`) write it."""


class BadCertificate(Exception):
    """A verified certificate whose names cannot be relied upon; the text is PostgreSQL's."""


Done = Callable[[ssl.SSLError | OSError | None], None]
"""Hears once of the end of the handshake: None, or why it failed."""


class TlsLink:
    """TLS between a transport and a protocol; `start` begins the handshake.

    During the handshake nothing reaches the protocol, and what is written is dropped: nobody
    could read it. Its failure sends the peer the alert that says why, and closes.
    """

    def __init__(
        self,
        lower: asyncio.Transport,
        protocol: Any,
        context: ssl.SSLContext,
        done: Done,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        self._lower = lower
        self._protocol = protocol
        self._done = done
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._established = False
        self._paused = False
        self._silent = False  # nothing more is written
        self._closed = False  # nor read
        self.info: Tls | None = None
        """What the handshake has shown."""

    def __repr__(self) -> str:
        """Show whom it is for."""
        return f"<TlsLink {self._protocol!r}>"

    def start(self, received: bytes = b"") -> None:
        """Take the transport over; `received` came from it and belongs to the handshake."""
        self._lower.set_protocol(self)  # type: ignore[arg-type]  # a protocol by shape
        if received:
            self._incoming.write(received)
        self._handshake()

    # -- the handshake

    def _handshake(self) -> None:
        try:
            self._object.do_handshake()
            self.info = _info(self._object)
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (OSError, BadCertificate) as error:  # SSLError is one
            self._flush()  # the alert
            self._fail(error if isinstance(error, OSError) else ssl.SSLError(1, str(error)))
            return
        self._flush()
        self._established = True
        self._done(None)
        if self._incoming.pending:
            self._decrypt()

    def _fail(self, error: ssl.SSLError | OSError) -> None:
        self._silent = self._closed = True
        self._lower.close()
        self._done(error)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._lower.write(self._outgoing.read())

    # -- from below

    def data_received(self, data: bytes) -> None:
        """Decrypt what came."""
        if len(data) <= _SLICE:
            self._incoming.write(data)
            self._advance()
            return
        view = memoryview(data)
        for at in range(0, len(data), _SLICE):
            self._incoming.write(view[at : at + _SLICE])
            self._advance()

    def _advance(self) -> None:
        if self._established:
            self._decrypt()
        elif not self._closed:
            self._handshake()

    def _decrypt(self) -> None:
        """Hand up all that can be read, in one piece; unless reading is paused."""
        if self._paused or self._closed:
            return
        incoming, connection = self._incoming, self._object
        parts: list[bytes] = []
        ended = False
        try:
            while True:
                data = connection.read(_RECORD)
                if not data:  # close_notify
                    ended = True
                    break
                parts.append(data)
                if not incoming.pending and not connection.pending():
                    break  # which saves the exception that says the same
        except ssl.SSLWantReadError:
            pass
        except OSError as error:  # a broken record, an alert
            self._flush()
            self._lower.abort()
            if parts:
                self._protocol.data_received(b"".join(parts))
            self._lose(error)
            return
        if self._outgoing.pending:  # a KeyUpdate's answer
            self._flush()
        if parts:
            self._protocol.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if ended:
            self.eof_received()
            self.close()

    def eof_received(self) -> bool:
        """Pass the end on; one without close_notify too: PostgreSQL has its own Terminate."""
        if self._established and not self._closed:
            self._protocol.eof_received()
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        """Pass it on, once; or fail the handshake."""
        if not self._established and not self._closed:
            lost = error if isinstance(error, OSError) else ConnectionResetError("hung up")
            self._done(lost)
        self._lose(error)

    def _lose(self, error: BaseException | None) -> None:
        self._silent = self._closed = True
        protocol, self._protocol = self._protocol, _NOBODY
        protocol.connection_lost(error)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    # -- from above

    def write(self, data: bytes) -> None:
        """Encrypt, and hand down."""
        if self._silent or not self._established or not data:
            return
        if len(data) <= _SLICE:
            self._object.write(data)
        else:
            view = memoryview(data)
            for at in range(0, len(data), _SLICE):
                self._object.write(view[at : at + _SLICE])
                self._lower.write(self._outgoing.read())
        if self._outgoing.pending:
            self._lower.write(self._outgoing.read())

    def write_eof(self) -> None:
        """Say that no more comes; what the peer still says is received."""
        if not self._closed:
            self._say_goodbye()
            self._lower.write_eof()  # during the handshake, too

    def close(self) -> None:
        """Close once everything written is sent."""
        self._say_goodbye()
        self._closed = True
        self._lower.close()

    def abort(self) -> None:
        """Close at once."""
        self._silent = self._closed = True
        self._lower.abort()

    def _say_goodbye(self) -> None:
        if self._established and not self._silent:
            self._silent = True
            with contextlib.suppress(OSError):  # it also waits for the peer's, which we do not
                self._object.unwrap()
            self._flush()

    def pause_reading(self) -> None:
        """Hand nothing up."""
        self._paused = True
        self._lower.pause_reading()

    def resume_reading(self) -> None:
        """Hand up again, also what came before the pause was in force."""
        self._paused = False
        if self._incoming.pending or self._object.pending():
            asyncio.get_running_loop().call_soon(self._catch_up)
        else:
            self._lower.resume_reading()

    def _catch_up(self) -> None:
        if not self._paused:
            self._decrypt()
        if not self._paused and not self._lower.is_closing():
            self._lower.resume_reading()

    def is_closing(self) -> bool:
        """Return whether it is closed or on the way."""
        return self._lower.is_closing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pass it on: what waits to be sent waits there."""
        self._lower.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        """Return how many encrypted bytes wait to be sent."""
        return self._lower.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection; "tls": a `Tls`."""
        if name == "tls":
            return self.info
        if name == "ssl_object":
            return self._object
        return self._lower.get_extra_info(name, default)

    def set_protocol(self, protocol: Any) -> None:
        """Have another protocol hear what comes."""
        if self._protocol is not _NOBODY:
            self._protocol = protocol

    def get_protocol(self) -> Any:
        """Return the protocol that hears what comes."""
        return self._protocol

    # -- for the login

    @property
    def alpn(self) -> str | None:
        """The application protocol that both sides have agreed upon."""
        return self._object.selected_alpn_protocol()

    @property
    def peer_certificate(self) -> bytes | None:
        """The other end's certificate (DER)."""
        return self._object.getpeercert(binary_form=True)


def why(error: BaseException) -> str:
    """Return a handshake's error in words, as OpenSSL's tools and libpq put them."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    reason: str | None = getattr(error, "reason", None)  # of an SSLError, which may have none
    if isinstance(error, ssl.SSLError) and reason:
        return reason.lower().replace("_", " ")
    words: str | None = error.strerror if isinstance(error, OSError) else None
    return words or str(error)


_NOBODY: Final = asyncio.Protocol()


# -- certificates


def end_point(der: bytes) -> bytes:
    """Return the data of `tls-server-end-point` for a server's certificate (RFC 5929).

    Its hash by the hash function of its signature; SHA-256 in place of MD5 and SHA-1. Empty where
    the signature has none of its own (Ed25519): then nothing can be bound.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return b""
    if algorithm is None:
        return b""
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name.replace("-", "_"), der).digest()


def _info(connection: ssl.SSLObject) -> Tls:
    cipher = connection.cipher()
    version = connection.version() or ""
    name = cipher[0] if cipher else ""
    verified = connection.context.verify_mode is not ssl.CERT_NONE
    der = connection.getpeercert(binary_form=True) if verified else None
    if der is None:
        return Tls(version, name)
    if not connection.server_side:  # who a server is, was checked by the handshake
        return Tls(version, name, verified=True)
    from cryptography import x509

    try:
        subject = x509.load_der_x509_certificate(der).subject
        return Tls(version, name, True, _common_name(subject), distinguished_name(subject))
    except ValueError as error:
        raise BadCertificate(f"the certificate's subject cannot be read: {error}") from None


def _common_name(subject: "x509.Name") -> str:
    from cryptography.x509.oid import NameOID

    for attribute in subject:
        if attribute.oid == NameOID.COMMON_NAME:
            name = _text(attribute.value)
            if "\0" in name:  # CVE-2009-4034
                raise BadCertificate("SSL certificate's common name contains embedded null")
            return name
    return ""


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


# OpenSSL's short names, by which XN_FLAG_RFC2253 calls an attribute.
_SHORT: Final = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.17": "postalCode",
    "2.5.4.41": "name",
    "2.5.4.42": "GN",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.45": "x500UniqueIdentifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.3": "mail",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionL",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionST",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionC",
}


def expiry(der: bytes) -> float:
    """Return the end of a certificate's validity, in seconds since 1970; 0.0 where unreadable."""
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()
    except ValueError:  # OpenSSL has taken it, cryptography is stricter
        return 0.0


def distinguished_name(subject: "x509.Name") -> str:
    """Return a name as `X509_NAME_print_ex` does with XN_FLAG_RFC2253, the form of PostgreSQL.

    The last part comes first; bytes that are not printable ASCII are written as \\XX. An attribute
    without a short name is shown by its number (its value as text, where OpenSSL dumps the DER).
    """
    return ",".join(
        "+".join(
            f"{_SHORT.get(part.oid.dotted_string, part.oid.dotted_string)}"
            f"={_escaped(_text(part.value))}"
            for part in reversed(list(parts))
        )
        for parts in reversed(subject.rdns)
    )


def _escaped(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    escaped = []
    for at, byte in enumerate(raw):
        char = chr(byte)
        if (
            char in ',+"\\<>;'
            or (char == "#" and at == 0)
            or (char == " " and at in (0, len(raw) - 1))
        ):
            escaped.append("\\" + char)
        elif 0x20 <= byte < 0x7F:
            escaped.append(char)
        else:
            escaped.append(f"\\{byte:02X}")
    return "".join(escaped)
