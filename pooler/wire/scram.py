"""SCRAM-SHA-256, both roles, as steps of text in and text out; and the verifier that is stored.

Source: RFC 5802 and 7677; `src/common/scram-common.c`, `saslprep.c` and `libpq/auth-scram.c` for
what PostgreSQL makes of them: user names in the exchange are ignored, a password that SASLprep
rejects is used as it is, authorisation identities and extensions are refused.

Nonces and salts come from the caller. A message that breaks the rules raises `Malformed`, and no
secret is in any text or repr. Channel binding (-PLUS) is a matter of two arguments: the GS2 flag
and the data bound to it.
"""

import hashlib
import hmac
import re
import stringprep
import unicodedata
from binascii import a2b_base64, b2a_base64
from collections import OrderedDict
from typing import Final

from pooler.wire.parse import Malformed

MECHANISM: Final = "SCRAM-SHA-256"
MECHANISM_PLUS: Final = "SCRAM-SHA-256-PLUS"
BINDS: Final = "p=tls-server-end-point"
"""The GS2 flag of the one channel binding that PostgreSQL has (RFC 5929)."""
ITERATIONS: Final = 4096  # scram_iterations' default
ITERATIONS_LIMIT: Final = 1_000_000  # about half a second: what a server may make us compute
KEY_SIZE: Final = 32  # bytes of a SHA-256
SALT_SIZE: Final = 16  # SCRAM_DEFAULT_SALT_LEN
NONCE_SIZE: Final = 18  # SCRAM_RAW_NONCE_LEN, 24 characters in base64

_VERIFIER: Final = re.compile(
    r"SCRAM-SHA-256\$([1-9][0-9]{0,8}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]{44}):([A-Za-z0-9+/=]{44})"
)


# -- passwords


def _maps_to(char: str) -> str:
    if stringprep.in_table_c12(char):
        return " "
    return "" if stringprep.in_table_b1(char) else char


def _prohibited(char: str) -> bool:
    return (
        stringprep.in_table_a1(char)
        or stringprep.in_table_c12(char)
        or stringprep.in_table_c21_c22(char)
        or stringprep.in_table_c3(char)
        or stringprep.in_table_c4(char)
        or stringprep.in_table_c5(char)
        or stringprep.in_table_c6(char)
        or stringprep.in_table_c7(char)
        or stringprep.in_table_c8(char)
        or stringprep.in_table_c9(char)
    )


def saslprep(text: str) -> str | None:
    """Return `text` prepared as RFC 4013 says, or None where it prohibits the text."""
    if text.isascii():
        return text  # as PostgreSQL does: control characters and all
    mapped = "".join([_maps_to(char) for char in text])
    prepared = unicodedata.normalize("NFKC", mapped)
    if not prepared or any([_prohibited(char) for char in prepared]):
        return None
    right_to_left = [stringprep.in_table_d1(char) for char in prepared]
    if any(right_to_left) and (
        not (right_to_left[0] and right_to_left[-1])
        or any([stringprep.in_table_d2(char) for char in prepared])
    ):
        return None
    return prepared


def _normalised(password: str) -> bytes:
    raw = password.encode("utf-8", "surrogateescape")
    try:
        prepared = saslprep(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return raw
    return raw if prepared is None else prepared.encode("utf-8")


# -- keys


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# For the two blocks that a key is made into.
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))
_BLOCK: Final = 64  # bytes that SHA-256 takes at a time


class _Mac:
    """HMAC-SHA-256 (RFC 2104) by a key that is used again: its blocks are hashed once.

    For a key of one block at most. OpenSSL's, looked up and set up anew each time, costs thrice.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER))
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def digest(self, data: bytes) -> bytes:
        """Return the data's."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()


def _xor(one: bytes, other: bytes) -> bytes:
    size = len(one)
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(size, "big")


class Keys:
    """What logs in in a password's place, wherever the verifier is this very one.

    A client that proves itself reveals its ClientKey to whoever holds the verifier, and that is
    all it takes: so a pooler without any password logs in to a server on (pass-through).
    """

    __slots__ = ("client_key", "iterations", "salt", "server_key")

    def __init__(self, iterations: int, salt: bytes, client_key: bytes, server_key: bytes) -> None:
        self.iterations = iterations
        self.salt = salt
        self.client_key = client_key
        self.server_key = server_key

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Keys(iterations={self.iterations})"

    def __eq__(self, other: object) -> bool:
        """Whether they are the same in each part."""
        return (
            isinstance(other, Keys)
            and self.client_key == other.client_key
            and self.server_key == other.server_key
            and self.salt == other.salt
            and self.iterations == other.iterations
        )


class DifferentVerifier(Exception):
    """The server's verifier has another salt or count than the keys: they cannot prove a thing."""


def derive_keys(password: str, salt: bytes, iterations: int = ITERATIONS) -> Keys:
    """Return a password's keys; 1.5 ms of CPU for 4096 iterations."""
    salted = hashlib.pbkdf2_hmac("sha256", _normalised(password), salt, iterations)
    return Keys(iterations, salt, _hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"))


class Keyring:
    """Remembers what keys passwords have, the latest used `limit` of them: each costs 1.5 ms once.

    And as many verifiers that have been read. Passwords that somebody typed do not belong here, but
    those of the configuration do, which live in memory anyway; and the invented ones of users who
    do not exist, who must cost the same.
    """

    def __init__(self, limit: int = 10_000) -> None:  # some 4 MB, and 4 of verifiers
        self._limit = limit
        self._known: OrderedDict[tuple[str, bytes, int], Keys] = OrderedDict()
        self._read: dict[str, Verifier] = {}
        self.derived = 0
        """Derivations so far."""

    def keys(self, password: str, salt: bytes, iterations: int = ITERATIONS) -> Keys:
        """Return a password's keys."""
        name = (password, salt, iterations)
        keys = self._known.get(name)
        if keys is None:
            self.derived += 1
            keys = self._known[name] = derive_keys(password, salt, iterations)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(name)
        return keys

    def stored(self, secret: str) -> "Verifier | None":
        """Return the verifier that a stored secret is; None: it is something else."""
        found = self._read.get(secret)
        if found is None:
            found = parse_verifier(secret)
            if found is not None:
                if len(self._read) >= self._limit:
                    self._read.clear()
                self._read[secret] = found
        return found

    def verifier(self, password: str, salt: bytes) -> "Verifier":
        """Return a password's verifier."""
        return _verifier(self.keys(password, salt))


class Verifier:
    """What a server stores of a password: enough to check a proof, not enough to give one."""

    __slots__ = ("iterations", "proofs", "salt", "server_key", "signatures", "stored_key")

    def __init__(self, iterations: int, salt: bytes, stored_key: bytes, server_key: bytes) -> None:
        self.iterations = iterations
        self.salt = salt
        self.stored_key = stored_key
        self.server_key = server_key
        self.proofs = _Mac(stored_key)
        """Of clients."""
        self.signatures = _Mac(server_key)
        """Of ours."""

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Verifier(iterations={self.iterations}, salt={self.salt!r})"

    def __eq__(self, other: object) -> bool:
        """Whether it is the same in each part."""
        return (
            isinstance(other, Verifier)
            and self.stored_key == other.stored_key
            and self.server_key == other.server_key
            and self.salt == other.salt
            and self.iterations == other.iterations
        )

    def format(self) -> str:
        """Return the verifier as PostgreSQL stores it in `pg_authid.rolpassword`."""
        return (
            f"{MECHANISM}${self.iterations}:{_base64(self.salt)}"
            f"${_base64(self.stored_key)}:{_base64(self.server_key)}"
        )

    def matches(self, password: str) -> bool:
        """Say whether the verifier is this password's."""
        keys = derive_keys(password, self.salt, self.iterations)
        return hmac.compare_digest(keys.server_key, self.server_key)


def parse_verifier(text: str) -> Verifier | None:
    """Return the verifier that `text` is, or None when it is something else."""
    found = _VERIFIER.fullmatch(text)
    if found is None:
        return None
    try:
        salt, stored_key, server_key = [_unbase64(found[i]) for i in (2, 3, 4)]
    except Malformed:
        return None
    if len(stored_key) != KEY_SIZE or len(server_key) != KEY_SIZE:
        return None
    return Verifier(int(found[1]), salt, stored_key, server_key)


def derive_verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> Verifier:
    """Return the verifier of a password; 1.5 ms of CPU."""
    return _verifier(derive_keys(password, salt, iterations))


def _verifier(keys: Keys) -> Verifier:
    return Verifier(keys.iterations, keys.salt, _sha256(keys.client_key), keys.server_key)


def user_salt(key: bytes, user: str) -> bytes:
    """Return the salt of a user without a stored one: always the same under the same `key`.

    Users whose password is stored in the clear and users who do not exist get theirs here, so
    asking twice tells nobody which of the two somebody is.
    """
    return _hmac(key, b"salt" + user.encode("utf-8", "surrogateescape"))[:SALT_SIZE]


def mock_password(key: bytes, user: str) -> str:
    """Return a password for a user who does not exist, which nobody can know.

    It is led through all that a stored one is led through, so that time tells nothing either.
    """
    return _hmac(key, b"mock" + user.encode("utf-8", "surrogateescape")).hex()


# -- messages


def _base64(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).decode("ascii")


def _unbase64(text: str) -> bytes:
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:  # also for what is not ASCII
        raise Malformed("malformed SCRAM message: invalid base64") from None


def _text(message: bytes) -> str:
    try:
        text = message.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("malformed SCRAM message: not UTF-8") from None
    if "\0" in text:
        raise Malformed("malformed SCRAM message: a NUL byte")
    return text


def _attributes(text: str, names: tuple[str, ...]) -> list[str]:
    """Return the values of the attributes `names`, with which `text` has to start, in order."""
    parts = text.split(",")
    if len(parts) < len(names):
        raise Malformed(f"malformed SCRAM message: attribute {names[len(parts)][0]!r} is missing")
    values: list[str] = []
    for i in range(len(names)):
        if not parts[i].startswith(names[i]):
            raise Malformed(f"malformed SCRAM message: expected attribute {names[i][0]!r}")
        values.append(parts[i][2:])
    return values


def _is_nonce(text: str) -> bool:
    """Whether it is printable ASCII but the comma, as RFC 5802 has it."""
    return (
        text.isascii() and text.isprintable() and " " not in text and "," not in text and text != ""
    )


class ServerExchange:
    """The server's part: `first`, then `final`, each called with what the client says."""

    def __init__(
        self,
        verifier: Verifier,
        nonce: bytes,
        flags: tuple[str, ...] = ("n", "y"),
        bound: bytes = b"",
    ) -> None:
        """Start; `flags` are the GS2 flags to accept and `bound` is the channel binding's data.

        Without TLS a client may say that it can bind ("y") or not ("n"); it then binds nothing.
        """
        self._verifier = verifier
        self._nonce = _base64(nonce)
        self._flags = flags
        self._bound = bound
        self._header = ""
        self._said = ""  # the exchange so far, which the proofs sign
        self.keys: Keys | None = None
        """What the client has proven to have, once it has."""

    def first(self, message: bytes) -> bytes:
        """Take the client-first-message, return the server-first-message."""
        text = _text(message)
        parts = text.split(",", 2)
        if len(parts) < 3:
            raise Malformed("malformed SCRAM message: no GS2 header")
        flag, identity, bare = parts
        if flag not in self._flags:
            raise Malformed("SCRAM channel binding negotiation error")
        if identity:
            raise Malformed("client uses authorization identity, but it is not supported")
        self._header = f"{flag},,"
        if bare.startswith("m="):
            raise Malformed("client requires an unsupported SCRAM extension")
        _, nonce = _attributes(bare, ("n=", "r="))
        if not _is_nonce(nonce):
            raise Malformed("malformed SCRAM message: invalid nonce")
        self._nonce = nonce + self._nonce
        verifier = self._verifier
        answer = f"r={self._nonce},s={_base64(verifier.salt)},i={verifier.iterations}"
        self._said = f"{bare},{answer}"
        return answer.encode("utf-8")

    def final(self, message: bytes) -> bytes | None:
        """Take the client-final-message, return the server-final-message; None: wrong password."""
        text = _text(message)
        without_proof, _, proof = text.rpartition(",p=")
        binding, nonce = _attributes(without_proof, ("c=", "r="))
        if _unbase64(binding) != self._header.encode("utf-8") + self._bound:
            raise Malformed("unexpected SCRAM channel-binding attribute in client-final-message")
        if not hmac.compare_digest(nonce.encode("utf-8"), self._nonce.encode("utf-8")):
            raise Malformed("invalid SCRAM response: nonce does not match")
        proven = _unbase64(proof)
        if len(proven) != KEY_SIZE:
            raise Malformed("malformed SCRAM message: invalid proof")
        said = f"{self._said},{without_proof}".encode()
        verifier = self._verifier
        client_key = _xor(proven, verifier.proofs.digest(said))
        if not hmac.compare_digest(_sha256(client_key), verifier.stored_key):
            return None
        self.keys = Keys(verifier.iterations, verifier.salt, client_key, verifier.server_key)
        return f"v={_base64(verifier.signatures.digest(said))}".encode("ascii")


class ClientExchange:
    """The client's part: send `first`, answer with `final`, `verify` the server's proof."""

    def __init__(
        self,
        secret: str | Keys,
        nonce: bytes,
        user: str = "",
        flag: str = "n",
        bound: bytes = b"",
        keyring: Keyring | None = None,
    ) -> None:
        """Start; `flag` is the GS2 flag and `bound` the data of the channel binding it names.

        `secret` is the password, whose keys `keyring` may know, or keys themselves.
        `user` is sent as it is; PostgreSQL ignores it, libpq sends none.
        """
        self._secret = secret
        self._keyring = keyring or Keyring()
        self._nonce = _base64(nonce)
        self._header = f"{flag},,"
        self._bound = bound
        self._bare = f"n={user},r={self._nonce}"
        self._signature = b""

    def first(self) -> bytes:
        """Return the client-first-message."""
        return (self._header + self._bare).encode("utf-8")

    def final(self, message: bytes) -> bytes:
        """Take the server-first-message, return the client-final-message."""
        text = _text(message)
        nonce, salt, count = _attributes(text, ("r=", "s=", "i="))
        if not _is_nonce(nonce) or not nonce.startswith(self._nonce):
            raise Malformed("invalid SCRAM response: nonce does not match")
        if len(nonce) == len(self._nonce):
            raise Malformed("invalid SCRAM response: the server added no nonce")
        if not re.fullmatch("[1-9][0-9]{0,8}", count) or int(count) > ITERATIONS_LIMIT:
            raise Malformed("malformed SCRAM message: invalid iteration count")
        raw_salt = _unbase64(salt)
        if not raw_salt:
            raise Malformed("malformed SCRAM message: no salt")
        keys = self._secret
        if isinstance(keys, str):
            keys = self._keyring.keys(keys, raw_salt, int(count))
        elif (keys.salt, keys.iterations) != (raw_salt, int(count)):
            raise DifferentVerifier
        binding = _base64(self._header.encode("utf-8") + self._bound)
        without_proof = f"c={binding},r={nonce}"
        said = f"{self._bare},{text},{without_proof}".encode()
        self._signature = _hmac(keys.server_key, said)
        proof = _xor(keys.client_key, _hmac(_sha256(keys.client_key), said))
        return f"{without_proof},p={_base64(proof)}".encode()

    def verify(self, message: bytes) -> bool:
        """Take the server-final-message; False: that server does not know the password."""
        text = _text(message)
        if text.startswith("e="):
            raise Malformed("the server reported a SCRAM error")
        (signature,) = _attributes(text, ("v=",))
        return hmac.compare_digest(_unbase64(signature), self._signature)
