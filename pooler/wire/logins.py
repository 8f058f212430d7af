"""The two login dialogues, as generators: bytes in, bytes out, no matter how they travel.

A dialogue yields either `bytes` to write or a request, and is resumed with the answer:

    yields                          is sent
    bytes                           None, once they are on their way
    Packet                          the body of the next packet of the start-up phase (no kind)
    Message                         (kind, body) of the next message
    Find(user, database, ...)       the `Account`; or an exception is thrown in, which comes out
    Check(ask, password)            what `ask` says of the password: "", or why it is wrong
    Silence                         None, unless something has come
    StartTls                        `Secured`, once all that follows is encrypted

`take` of a request cuts the answer from the bytes received so far, and raises as soon
as those cannot become one: a driver waits for no more than it must. Bytes behind the answer are
the next request's, and behind the last one the session's. `conversation` does all that.

A dialogue returns its result, or raises `LoginFailed` (what the peer said breaks the rules, or
proves nothing) or `Refused` (a server's own words). Nothing else comes out, whatever the bytes;
a driver whose peer is gone closes the generator. No result holds a secret that was typed, and no
text or repr shows one.

    dialogue = client_login(secrets.token_bytes, key)
    answer = None
    while True:
        try:
            step = dialogue.send(answer)
        except StopIteration as done:
            return done.value
        answer = ...                # written, cut from what came, or found

Source: PostgreSQL documentation, "Message Flow", "Start-up"; `src/backend/tcop/backend_startup.c`,
`libpq/auth.c`, and libpq's `fe-auth.c`, `fe-connect.c` for the other role.
"""

from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeVar

from pooler.wire import build, codes, parse, passwords, scram
from pooler.wire.parse import CancelRequest, Malformed

Credential: TypeAlias = str | scram.Keys
"""What logs in to a server: a password, an md5 secret, or the keys that a client has proved."""
Method: TypeAlias = Literal[
    "trust", "password", "md5", "scram-sha-256", "cert", "peer", "ldap", "pam"
]
Ask: TypeAlias = Callable[[str], Awaitable[str]]
"""Asks somebody else about a password: "", or why it is wrong, for the log."""
Random: TypeAlias = Callable[[int], bytes]
"""Returns that many random bytes; `secrets.token_bytes`, but for tests."""

SERVER_LIMIT: Final = 65_535  # bytes of a server's message during login; libpq: 30,000 for errors
ALPN: Final = "postgresql"
_HANDSHAKE: Final = b"\x16"  # a TLS record of a handshake begins with it
SERVER_MESSAGES: Final = 1_000  # in one login: some dozens are usual, login triggers may add some


class LoginFailed(Exception):
    """The peer broke the protocol or did not prove who it is.

    `text` and `sqlstate` may be told to a client; `cause` is for the log only.
    """

    def __init__(self, sqlstate: str, text: str, cause: str = "") -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.text = text
        self.cause = cause


class Refused(Exception):
    """The server ended the login with an ErrorResponse; `fields` by their one-letter code."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(fields.get("M", "the server refused the connection without a message"))
        self.fields = fields


# -- requests


class Taken:
    """A request that is answered from the bytes received."""

    def take(self, data: bytes) -> tuple[Any, int] | None:
        """Return the answer and its length on the wire; None: more has to come. LoginFailed."""
        raise NotImplementedError


class Packet(Taken):
    """The next packet of the start-up phase, please: a length, no kind.

    With `or_tls` a TLS handshake may begin in its place; the answer is then b"", and nothing is
    taken.
    """

    def __init__(self, *, or_tls: bool = False) -> None:
        self._or_tls = or_tls

    def take(self, data: bytes) -> tuple[bytes, int] | None:
        """Return the packet's body and its length on the wire; None: more has to come."""
        if self._or_tls and data[:1] == _HANDSHAKE:  # as a length, it would be over any limit
            return b"", 0
        if len(data) < 4:
            return None
        size = int.from_bytes(data[:4], "big")
        if not 8 <= size <= codes.STARTUP_LIMIT + 4:
            raise LoginFailed(codes.PROTOCOL_VIOLATION, "invalid length of startup packet")
        return (data[4:size], size) if len(data) >= size else None


class Message(Taken):
    """The next message, please, which has to be of one of these kinds.

    `awaited` is what it is, for the error when it is something else; `limit` is in bytes of body.
    """

    def __init__(self, kinds: bytes, awaited: str, limit: int) -> None:
        self._kinds = kinds
        self._awaited = awaited
        self._limit = limit

    def take(self, data: bytes) -> tuple[tuple[int, bytes], int] | None:
        """Return (kind, body) and the length on the wire; None: more has to come."""
        if not data:
            return None
        kind = data[0]
        if kind not in self._kinds:
            raise LoginFailed(
                codes.PROTOCOL_VIOLATION, f"expected {self._awaited}, got message type {kind}"
            )
        if len(data) < codes.HEADER:
            return None
        size = int.from_bytes(data[1:5], "big") + 1
        if not codes.HEADER <= size <= self._limit + codes.HEADER:
            raise LoginFailed(
                codes.PROTOCOL_VIOLATION,
                f"invalid length {size - 1} of message type {chr(kind)!r}",
            )
        return ((kind, data[5:size]), size) if len(data) >= size else None


class Byte(Taken):
    """One byte, please: the answer to an SSLRequest has no more."""

    def take(self, data: bytes) -> tuple[bytes, int] | None:
        """Return it; None: it has to come."""
        return (data[:1], 1) if data else None


class Silence(Taken):
    """Nothing may have come yet: it would be taken for something that was said encrypted.

    CVE-2021-23214, CVE-2021-23222. `text` is that of the error when something has come.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def take(self, data: bytes) -> tuple[None, int]:
        """Return at once."""
        if data:
            raise LoginFailed(
                codes.PROTOCOL_VIOLATION, self._text, "a faulty driver, or a man in the middle"
            )
        return None, 0


@dataclass(frozen=True, slots=True)
class StartTls:
    """All that follows encrypted, please. Where that fails, the dialogue is closed."""

    direct: bool = False
    """Without having asked: what has been received already is part of the handshake."""


@dataclass(frozen=True, slots=True)
class Secured:
    """The answer to `StartTls`."""

    binding: bytes = b""
    """The server's certificate as `tls-server-end-point` has it; b"" where it cannot be bound."""
    alpn: str | None = None
    """The protocol both sides have agreed upon."""
    verified: bool = False
    """The other end has shown a certificate, and it was found to be right."""


@dataclass(slots=True, init=False)  # `__init__` is compiled where it is written
class Find:
    """Who is this, please, and how must he prove it?"""

    user: str
    database: str
    parameters: dict[str, str]
    """All of the StartupMessage's, user and database included as they were sent."""

    def __init__(self, user: str, database: str, parameters: dict[str, str]) -> None:
        self.user = user
        self.database = database
        self.parameters = parameters


@dataclass(slots=True, init=False)
class Account:
    """The answer to `Find`."""

    method: Method
    secret: str | None = field(repr=False)
    """What is stored: plain, md5 or SCRAM verifier; None for an unknown user, who is led through
    the whole dialogue like any other and then refused (unless the method is trust)."""
    check: Ask | None = field(repr=False, compare=False)
    """Who says whether the password is right, where that is not for the secret to say."""

    def __init__(self, method: Method, secret: str | None = None, check: Ask | None = None) -> None:
        self.method = method
        self.secret = secret
        self.check = check


@dataclass(frozen=True, slots=True)
class Check:
    """Is this the password, please? `ask` knows whom to ask."""

    ask: Ask = field(repr=False)
    password: str = field(repr=False)


Asked: TypeAlias = StartTls | Find | Check
"""Requests that no bytes answer."""
Request: TypeAlias = Taken | Asked
_T = TypeVar("_T")
Dialogue: TypeAlias = Generator[bytes | Request, Any, _T]


# -- a client logs in: we are the server


@dataclass(slots=True, init=False)
class Login:
    """Who logged in. AuthenticationOk is still to be sent, so a refusal can still come."""

    user: str
    database: str
    parameters: dict[str, str]
    """All of the StartupMessage's, user and database included as they were sent."""
    minor: int
    """The protocol's minor version in force, 0 or 2."""
    method: Method
    """How the client proved who he is: md5 becomes scram-sha-256 where a verifier is stored."""
    credential: Credential | None = field(repr=False, compare=False)
    """What would log him in at a server that knows him by the same secret."""
    said: bytes = field(repr=False, compare=False)
    """The last words, to be sent in one write with what follows them."""

    def __init__(
        self,
        user: str,
        database: str,
        parameters: dict[str, str],
        minor: int,
        method: Method,
        credential: Credential | None = None,
        said: bytes = b"",
    ) -> None:
        self.user = user
        self.database = database
        self.parameters = parameters
        self.minor = minor
        self.method = method
        self.credential = credential
        self.said = said


@dataclass(frozen=True, slots=True)
class Encryption:
    """What a client may have and must have."""

    offered: bool = False
    required: bool = False
    certificate: bool = False
    """Of its own; for cancel requests, which change nothing that they cannot prove, neither."""


NO_ENCRYPTION: Final = Encryption()


def client_login(
    random: Random,
    key: bytes,
    keyring: scram.Keyring | None = None,
    encryption: Encryption = NO_ENCRYPTION,
) -> Dialogue[Login | CancelRequest]:
    """Lead a client to its login, or return its CancelRequest.

    `key` is a secret, the same for all logins: the salts of users without a SCRAM verifier hang
    on it (see `scram.user_salt`). So is `keyring`, which saves the cost of most derivations.

    The caller answers `Find`, and sends after the result: what was `said`, AuthenticationOk, the
    parameters, a key and ReadyForQuery. It writes a LoginFailed's text as a FATAL ErrorResponse
    and closes.
    """
    try:
        first, secured = yield from _first_packet(encryption.offered)
        if isinstance(first, CancelRequest):
            return first
        minor = min(first.minor, codes.NEWEST_MINOR)
        if minor == codes.RESERVED_MINOR:
            minor = 0
        if first.minor > codes.NEWEST_MINOR or first.options:
            yield build.negotiate_protocol_version(minor, first.options)
        parameters = first.parameters
        user = parameters.get("user", "")
        if not user:
            raise LoginFailed(
                codes.INVALID_AUTHORIZATION,
                "no PostgreSQL user name specified in startup packet",
            )
        database = parameters.get("database", "") or user
        if encryption.required and secured is None:
            raise LoginFailed(codes.INVALID_AUTHORIZATION, "SSL required")
        if encryption.certificate and not (secured and secured.verified):
            raise LoginFailed(
                codes.INVALID_AUTHORIZATION, "connection requires a valid client certificate"
            )
        account: Account = yield Find(user, database, parameters)
        bound = secured.binding if secured else b""
        proven = yield from _check(user, account, random, key, keyring or scram.Keyring(), bound)
        return Login(user, database, parameters, minor, *proven)
    except parse.UnsupportedVersion as version:
        raise LoginFailed(codes.FEATURE_NOT_SUPPORTED, str(version)) from None
    except Malformed as broken:
        raise LoginFailed(codes.PROTOCOL_VIOLATION, str(broken)) from None


_PACKET: Final = Packet()
_PACKET_OR_TLS: Final = Packet(or_tls=True)
_PASSWORD: Final = Message(bytes([codes.PASSWORD]), "password response", codes.AUTH_LIMIT)
_SASL: Final = Message(bytes([codes.PASSWORD]), "SASL response", codes.AUTH_LIMIT)


def _first_packet(offered: bool) -> Dialogue[tuple[parse.Startup | CancelRequest, Secured | None]]:
    """Return the first packet that is no request for encryption, and what such a one led to."""
    asked: list[int] = []
    secured: Secured | None = None
    while True:
        body: bytes = yield _PACKET_OR_TLS if offered and not asked else _PACKET
        if not body:
            secured = yield StartTls(direct=True)
            if secured.alpn != ALPN:
                raise LoginFailed(
                    codes.PROTOCOL_VIOLATION,
                    "received direct SSL connection request without ALPN protocol negotiation "
                    "extension",
                )
            asked.append(codes.SSL_REQUEST)
            continue
        packet = parse.first_packet(body)
        if not isinstance(packet, parse.EncryptionRequest):
            return packet, secured
        code = packet.code
        if code in asked:
            raise parse.UnsupportedVersion(code)  # as PostgreSQL reads a second request
        asked.append(code)
        if code == codes.SSL_REQUEST and offered:
            yield Silence("received unencrypted data after SSL request")
            yield b"S"
            secured = yield StartTls()
        else:
            yield b"N"
            what = "SSL" if code == codes.SSL_REQUEST else "GSSAPI encryption"
            yield Silence(f"received unencrypted data after {what} request")


def _wrong_password(user: str, cause: str) -> LoginFailed:
    return LoginFailed(
        codes.INVALID_PASSWORD, f'password authentication failed for user "{user}"', cause
    )


def _check(
    user: str, account: Account, random: Random, key: bytes, keyring: scram.Keyring, bound: bytes
) -> Dialogue[tuple[Method, Credential | None, bytes]]:
    """Have the client prove who he is; return the method used, what it yields, and last words."""
    secret = account.secret or None  # an empty password is none, as in PostgreSQL
    stored = None if secret is None else keyring.stored(secret)
    if account.check is not None:
        typed = yield from _check_elsewhere(user, account, account.check)
        return account.method, typed, b""
    if account.method in ("trust", "cert", "peer"):  # the proof, if any, has been found already
        return account.method, secret if stored is None else None, b""
    if account.method == "password":
        typed = yield from _check_password(user, secret, key)
        return "password", typed, b""
    if account.method == "md5" and stored is None:
        yield from _check_md5(user, secret, random, key)
        return "md5", secret, b""
    keys, said = yield from _check_scram(user, secret, stored, random, key, keyring, bound)
    return "scram-sha-256", secret if stored is None else keys, said


def _password() -> Dialogue[str]:
    answer: tuple[int, bytes] = yield _PASSWORD
    typed = parse.text(parse.password(answer[1]))
    if not typed:
        raise LoginFailed(codes.INVALID_PASSWORD, "empty password returned by client")
    return typed


def _check_password(user: str, secret: str | None, key: bytes) -> Dialogue[str]:
    yield build.authentication(codes.AUTH_CLEARTEXT)
    typed = yield from _password()
    if secret is not None and passwords.matches(secret, user, typed):
        return typed
    if secret is None or passwords.kind_of(secret) is not passwords.Kind.SCRAM:
        scram.derive_keys(typed, scram.user_salt(key, user))  # a verifier would have taken as long
    raise _wrong_password(user, "no such user" if secret is None else "wrong password")


def _check_elsewhere(user: str, account: Account, ask: Ask) -> Dialogue[str]:
    yield build.authentication(codes.AUTH_CLEARTEXT)
    typed = yield from _password()
    cause: str = yield Check(ask, typed)
    if cause:
        text = f'{account.method.upper()} authentication failed for user "{user}"'
        raise LoginFailed(codes.INVALID_AUTHORIZATION, text, cause)
    return typed


def _check_md5(user: str, secret: str | None, random: Random, key: bytes) -> Dialogue[None]:
    salt = random(4)
    yield build.authentication(codes.AUTH_MD5, salt)
    typed = yield from _password()
    right = passwords.answers_md5(secret or scram.mock_password(key, user), user, salt, typed)
    if not right or secret is None:
        raise _wrong_password(user, "no such user" if secret is None else "wrong password")


# The flags that each mechanism may come with: a client that could bind but believes that we cannot
# ("y") has been told so by somebody in between.
_UNBOUND: Final = {scram.MECHANISM: ("n", "y")}
_BOUND: Final = {scram.MECHANISM_PLUS: (scram.BINDS,), scram.MECHANISM: ("n",)}
_UNBOUND_OFFER: Final = build.sasl_mechanisms(_UNBOUND)
_BOUND_OFFER: Final = build.sasl_mechanisms(_BOUND)


def _check_scram(
    user: str,
    secret: str | None,
    stored: scram.Verifier | None,
    random: Random,
    key: bytes,
    keyring: scram.Keyring,
    bound: bytes,
) -> Dialogue[tuple[scram.Keys | None, bytes]]:
    """Return what the client has proven to have, and our own proof; `stored` is its verifier."""
    yield _BOUND_OFFER if bound else _UNBOUND_OFFER
    offer = _BOUND if bound else _UNBOUND
    answer: tuple[int, bytes] = yield _SASL
    mechanism, response = parse.sasl_initial_response(answer[1])
    flags = offer.get(mechanism)
    if flags is None:
        raise Malformed("client selected an invalid SASL authentication mechanism")
    if bound and mechanism == scram.MECHANISM:
        if response[:1] == b"y":
            raise LoginFailed(
                codes.INVALID_AUTHORIZATION,
                "SCRAM channel binding negotiation error",
                "the client was not told that it could bind to our certificate",
            )
        bound = b""
    verifier, cause = stored, ""
    if verifier is None:
        verifier, cause = _substitute(user, secret, key, keyring)
    exchange = scram.ServerExchange(verifier, random(scram.NONCE_SIZE), flags, bound)
    yield build.authentication(codes.AUTH_SASL_CONTINUE, exchange.first(response))
    answer = yield _SASL
    final = exchange.final(answer[1])
    if final is None or cause:
        raise _wrong_password(user, cause or "wrong password")
    return exchange.keys, build.authentication(codes.AUTH_SASL_FINAL, final)


def _substitute(
    user: str, secret: str | None, key: bytes, keyring: scram.Keyring
) -> tuple[scram.Verifier, str]:
    """Return a verifier where none is stored, and why it cannot succeed if it cannot."""
    cause = ""
    if secret is None:
        cause = "no such user"
    elif passwords.kind_of(secret) is passwords.Kind.MD5:
        cause = "an md5 secret cannot serve scram-sha-256"
    password = scram.mock_password(key, user) if cause or secret is None else secret
    return keyring.verifier(password, scram.user_salt(key, user)), cause


# -- we log in to a server: we are the client


Asking: TypeAlias = Literal["not", "try", "must", "direct"]
"""How to ask a server for TLS: not at all; take a no for an answer; or do not; or begin with it."""
ChannelBinding: TypeAlias = Literal["disable", "prefer", "require"]


def negotiate(asking: Asking) -> Dialogue[Secured | None]:
    """Encrypt a connection to a server, if it may or must be; None: it is in the clear."""
    if asking == "not":
        return None
    secured: Secured
    if asking == "direct":
        secured = yield StartTls(direct=True)
        if secured.alpn != ALPN:
            raise LoginFailed(
                codes.CONNECTION_FAILURE,
                "direct SSL connection was established without ALPN protocol negotiation extension",
            )
        return secured
    yield build.SSL_REQUEST
    answer: bytes = yield Byte()
    if answer == b"S":
        yield Silence("received unencrypted data after SSL response")
        secured = yield StartTls()
        return secured
    if answer == b"N":
        if asking == "must":
            raise LoginFailed(
                codes.CONNECTION_FAILURE, "server does not support SSL, but SSL was required"
            )
        return None
    if answer == b"E":  # its words are nobody's yet: CVE-2024-10977
        raise LoginFailed(
            codes.CONNECTION_FAILURE, "server sent an error response during SSL exchange"
        )
    raise LoginFailed(
        codes.PROTOCOL_VIOLATION, f"received invalid response to SSL negotiation: {answer!r}"
    )


def cancel(asking: Asking, pid: int, secret: bytes) -> Dialogue[None]:
    """Send a CancelRequest; there is no answer to it but the end of the connection."""
    yield from negotiate(asking)
    yield build.cancel_request(pid, secret)


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a server told us before its first ReadyForQuery."""

    parameters: dict[str, str]
    """Of its ParameterStatus messages."""
    pid: int
    """The process id, with `secret` the key for a CancelRequest; 0 and empty: there is none."""
    secret: bytes = field(repr=False)
    minor: int
    """The protocol's minor version in force."""


def server_login(
    user: str,
    secret: Credential | None,
    parameters: Iterable[tuple[str, str]],
    random: Random,
    version: int = codes.PROTOCOL_3_0,
    keyring: scram.Keyring | None = None,
    asking: Asking = "not",
    binding: ChannelBinding = "prefer",
) -> Dialogue[Welcome]:
    """Log in to a server, from the SSLRequest or StartupMessage to its ReadyForQuery.

    `parameters` are the StartupMessage's besides the user; `secret` is the password, or an md5
    secret, which answers an md5 request only, or a client's SCRAM keys, which answer a server
    with the same verifier. The server has to prove that it knows the password where the method
    lets it (SCRAM). `keyring` saves the cost of all derivations but the first.
    """
    said = _Server()
    try:
        secured = yield from negotiate(asking)
        bound = _Binding(secured is not None, secured.binding if secured else b"", binding)
        yield build.startup([("user", user), *parameters], version)
        minor = yield from _authenticate(
            said, user, secret, random, version & 0xFFFF, keyring or scram.Keyring(), bound
        )
        return (yield from _welcome(said, minor))
    except Malformed as broken:
        raise LoginFailed(codes.PROTOCOL_VIOLATION, f"bad answer to our login: {broken}") from None


class _Binding:
    """How our proof is bound to the server's certificate, and whether it has to be."""

    def __init__(self, encrypted: bool, bound: bytes, binding: ChannelBinding) -> None:
        self.encrypted = encrypted
        self.bound = b"" if binding == "disable" else bound
        self.required = binding == "require"

    def insist(self, text: str) -> None:
        """Fail where binding is required."""
        if self.required:
            raise LoginFailed(codes.CONNECTION_FAILURE, text)

    def mechanism(self, offered: tuple[str, ...]) -> tuple[str, str, bytes]:
        """Return the mechanism to use, its GS2 flag, and what is bound."""
        if scram.MECHANISM_PLUS in offered:
            if not self.encrypted:
                raise LoginFailed(
                    codes.PROTOCOL_VIOLATION,
                    "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
                )
            if self.bound:
                return scram.MECHANISM_PLUS, scram.BINDS, self.bound
        self.insist(
            "channel binding is required, but server did not offer an authentication method that "
            "supports channel binding"
        )
        if scram.MECHANISM not in offered:
            raise LoginFailed(
                codes.FEATURE_NOT_SUPPORTED,
                f"none of the server's SASL mechanisms is supported: {', '.join(offered)}",
            )
        return scram.MECHANISM, "y" if self.bound else "n", b""


class _Server:
    """What a server says during a login; its notices are passed over, its error ends it."""

    def __init__(self) -> None:
        self.left = SERVER_MESSAGES

    def message(self, kinds: bytes, awaited: str) -> Dialogue[tuple[int, bytes]]:
        while self.left:
            self.left -= 1
            answer: tuple[int, bytes] = yield Message(kinds + b"EN", awaited, SERVER_LIMIT)
            if answer[0] == codes.ERROR_RESPONSE:
                raise Refused(parse.report(answer[1]))
            if answer[0] != codes.NOTICE_RESPONSE:
                return answer
        raise LoginFailed(
            codes.PROTOCOL_VIOLATION, f"the login is not over after {SERVER_MESSAGES} messages"
        )

    def authentication(self, expected: int) -> Dialogue[bytes]:
        """Return the data of the Authentication message of that number, which has to come."""
        answer = yield from self.message(b"R", "authentication request")
        request, data = parse.authentication(answer[1])
        if request != expected:
            raise Malformed(f"expected authentication request {expected}, got {request}")
        return data


def _authenticate(
    said: _Server,
    user: str,
    secret: Credential | None,
    random: Random,
    minor: int,
    keyring: scram.Keyring,
    binding: _Binding,
) -> Dialogue[int]:
    """Prove who we are; return the minor version in force."""
    kind, body = yield from said.message(b"Rv", "authentication request")
    if kind == codes.NEGOTIATE_PROTOCOL_VERSION:
        offered = parse.negotiate_protocol_version(body)
        if offered > minor:
            raise Malformed("the server negotiates a newer protocol than we asked for")
        minor = 0 if offered == codes.RESERVED_MINOR else offered
        kind, body = yield from said.message(b"R", "authentication request")
    request, data = parse.authentication(body)
    if request == codes.AUTH_OK:
        binding.insist(
            "channel binding required, but server authenticated client without channel binding"
        )
        return minor
    if request != codes.AUTH_SASL:
        binding.insist(
            "channel binding required but not supported by server's authentication request"
        )
    if request not in _METHODS:
        raise LoginFailed(
            codes.FEATURE_NOT_SUPPORTED,
            f"the server asks for authentication method {request}, which is not supported",
        )
    have = _kind(secret)
    if secret is None or have not in _METHODS[request][1]:
        raise LoginFailed(
            codes.INVALID_PASSWORD,
            f'the server asks for {_METHODS[request][0]} of user "{user}", '
            f"which the pooler's secret (kind: {have}) cannot answer",
        )
    if request == codes.AUTH_SASL:
        try:
            yield from _prove(said, secret, random, data, keyring, binding)
        except scram.DifferentVerifier:
            raise LoginFailed(
                codes.INVALID_PASSWORD,
                f"the server's verifier of user \"{user}\" is not the one that the pooler's "
                "client logged in with (salt or iterations differ)",
            ) from None
    elif not isinstance(secret, str):
        raise AssertionError("keys answer SCRAM only")
    elif request == codes.AUTH_CLEARTEXT:
        yield build.password(secret)
    else:
        if len(data) != 4:
            raise Malformed("invalid md5 salt")
        yield build.password(passwords.md5_answer(secret, user, data))
    yield from said.authentication(codes.AUTH_OK)
    return minor


_KEYS: Final = "SCRAM keys"
_PLAIN: Final = passwords.Kind.PLAIN.value
_METHODS: Final = {
    codes.AUTH_CLEARTEXT: ("a password", (_PLAIN,)),
    codes.AUTH_MD5: ("an md5 answer", (_PLAIN, passwords.Kind.MD5.value)),
    codes.AUTH_SASL: ("a SCRAM-SHA-256 proof", (_PLAIN, _KEYS)),
}
"""By authentication request: its name, and the kinds of secret that can answer it."""


def _kind(secret: Credential | None) -> str:
    if isinstance(secret, scram.Keys):
        return _KEYS
    return passwords.kind_of(secret).value if secret else "none"


def _prove(
    said: _Server,
    secret: Credential,
    random: Random,
    offer: bytes,
    keyring: scram.Keyring,
    binding: _Binding,
) -> Dialogue[None]:
    mechanism, flag, bound = binding.mechanism(parse.sasl_mechanisms(offer))
    nonce = random(scram.NONCE_SIZE)
    exchange = scram.ClientExchange(secret, nonce, flag=flag, bound=bound, keyring=keyring)
    yield build.sasl_initial_response(mechanism, exchange.first())
    challenge = yield from said.authentication(codes.AUTH_SASL_CONTINUE)
    yield build.sasl_response(exchange.final(challenge))
    final = yield from said.authentication(codes.AUTH_SASL_FINAL)
    if not exchange.verify(final):
        raise LoginFailed(
            codes.INVALID_PASSWORD, "the server could not prove that it knows the password"
        )


def _welcome(said: _Server, minor: int) -> Dialogue[Welcome]:
    parameters: dict[str, str] = {}
    pid, secret = 0, b""
    while True:
        kind, body = yield from said.message(b"SKZ", "ReadyForQuery")
        if kind == codes.PARAMETER_STATUS:
            name, value = parse.parameter_status(body)
            parameters[name] = value
        elif kind == codes.BACKEND_KEY_DATA:
            pid, secret = parse.backend_key_data(body)
        elif body == bytes([codes.IDLE]):
            return Welcome(parameters, pid, secret, minor)
        else:
            raise Malformed("the server is not idle after login")
