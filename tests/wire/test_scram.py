"""SCRAM-SHA-256 against the RFCs' vectors, itself, and PostgreSQL's own secrets."""

import hmac
from base64 import b64decode
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pooler.wire import passwords, scram
from pooler.wire.parse import Malformed
from pooler.wire.passwords import Kind
from pooler.wire.scram import ClientExchange, ServerExchange

# RFC 7677, section 3: user "user", password "pencil". Its nonces are base64 already.
CLIENT_NONCE = b64decode("rOprNGfwEbeRWgbNEkqO")
SERVER_PART = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

NONCE = b"N" * 18
OTHER_NONCE = b"M" * 18
VERIFIER = scram.derive_verifier("secret", b"salt", 2)


def test_rfc_7677_as_client() -> None:
    client = ClientExchange("pencil", CLIENT_NONCE, user="user")
    assert client.first() == CLIENT_FIRST
    assert client.final(SERVER_FIRST) == CLIENT_FINAL
    assert client.verify(SERVER_FINAL)


def test_rfc_7677_as_server() -> None:
    server = ServerExchange(scram.derive_verifier("pencil", SALT), b"")
    server._nonce = SERVER_PART  # which is no base64
    assert server.first(CLIENT_FIRST) == SERVER_FIRST
    assert server.final(CLIENT_FINAL) == SERVER_FINAL


def exchange(client: ClientExchange, server: ServerExchange) -> bool | None:
    """Run both sides; None: the server refuses, else whether the client trusts it."""
    final = server.final(client.final(server.first(client.first())))
    return None if final is None else client.verify(final)


@given(st.text(), st.text(), st.binary(min_size=1, max_size=30), st.integers(1, 4))
@example("I\xadX", "IX", b"salt", 1)
def test_both_roles(password: str, other: str, salt: bytes, iterations: int) -> None:
    verifier = scram.derive_verifier(password, salt, iterations)
    same = scram._normalised(password) == scram._normalised(other)
    for typed, expected in ((password, True), (other, True if same else None)):
        client = ClientExchange(typed, NONCE)
        assert exchange(client, ServerExchange(verifier, OTHER_NONCE)) is expected
        assert verifier.matches(typed) is bool(expected)


def test_a_server_without_the_password_is_found_out() -> None:
    impostor = scram.Verifier(2, b"salt", VERIFIER.stored_key, b"k" * 32)
    assert exchange(ClientExchange("secret", NONCE), ServerExchange(impostor, OTHER_NONCE)) is False


def test_channel_binding() -> None:
    flag, bound = "p=tls-server-end-point", b"hash of a certificate"

    def client(data: bytes) -> ClientExchange:
        return ClientExchange("secret", NONCE, flag=flag, bound=data)

    def server() -> ServerExchange:
        return ServerExchange(VERIFIER, OTHER_NONCE, flags=(flag,), bound=bound)

    assert exchange(client(bound), server()) is True
    with pytest.raises(Malformed, match="channel-binding"):
        exchange(client(b"another's"), server())
    with pytest.raises(Malformed, match="negotiation"):
        exchange(client(bound), ServerExchange(VERIFIER, OTHER_NONCE))
    with pytest.raises(Malformed, match="negotiation"):
        exchange(ClientExchange("secret", NONCE, flag="y"), server())


def test_a_client_that_could_bind_is_welcome_without_tls() -> None:
    client = ClientExchange("secret", NONCE, flag="y")
    assert exchange(client, ServerExchange(VERIFIER, OTHER_NONCE)) is True


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=",
        b"n,,n=,",
        b"n,,n=,r",
        b"n,,n=,r=",
        b"n,,n=,r=a b",
        b"n,,n=,r=\xc3\xa9",
        b"n,,n=,r=\xff",
        b"n,,r=x,n=",
        b"n,,m=ext,n=,r=x",
        b"n,a=admin,n=,r=x",
        b"p=tls-unique,,n=,r=x",
        b"x,,n=,r=x",
        b"n,,n=\0,r=x",
    ],
)
def test_malformed_client_first(message: bytes) -> None:
    with pytest.raises(Malformed):
        ServerExchange(VERIFIER, NONCE).first(message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c=biws", b"c=eSws"),
        (b"c=biws", b"c=####"),
        (b"c=biws,", b""),
        (b",r=", b",r=x"),
        (b",p=", b",q="),
        (b"=,p=", b",p="),
        (b",p=", b",p=AAAA"),
        (b",p=", b",p=#"),
        (b",p=", b",p=\xff"),
        (b",r=", b",x=y,r="),
    ],
)
def test_malformed_client_final(old: bytes, new: bytes) -> None:
    server = ServerExchange(VERIFIER, OTHER_NONCE * 2 + b"=")  # a nonce that ends in "="
    client = ClientExchange("secret", NONCE)
    final = client.final(server.first(client.first()))
    assert old in final
    with pytest.raises(Malformed):
        server.final(final.replace(old, new, 1))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"r=%b",
        b"r=%bx,s=c2FsdA==",
        b"r=%bx,s=,i=1",
        b"r=%bx,s=#,i=1",
        b"r=%bx,s=c2FsdA==,i=0",
        b"r=%bx,s=c2FsdA==,i=-1",
        b"r=%bx,s=c2FsdA==,i=1000001",
        b"r=%bx,s=c2FsdA==,i=" + b"9" * 5000,
        b"r=%b,s=c2FsdA==,i=1",  # no nonce of its own
        b"r=x%b,s=c2FsdA==,i=1",
        b"r=%b\xff,s=c2FsdA==,i=1",
        b"m=x,r=%bx,s=c2FsdA==,i=1",
    ],
)
def test_malformed_server_first(message: bytes) -> None:
    client = ClientExchange("secret", CLIENT_NONCE)
    with pytest.raises(Malformed):
        client.final(message.replace(b"%b", b"rOprNGfwEbeRWgbNEkqO"))


@pytest.mark.parametrize("message", [b"", b"v=", b"v=#", b"e=other-error", b"x=y", b"v=\xff"])
def test_no_server_final_of_these_is_believed(message: bytes) -> None:
    client = ClientExchange("pencil", CLIENT_NONCE, user="user")
    client.final(SERVER_FIRST)
    with suppress(Malformed):
        assert not client.verify(message)


@given(st.binary(max_size=60))
def test_any_bytes(message: bytes) -> None:
    steps = [
        ServerExchange(VERIFIER, NONCE).first,
        ServerExchange(VERIFIER, NONCE).final,
        ClientExchange("secret", NONCE).final,
        ClientExchange("secret", NONCE).verify,
    ]
    for step in steps:
        try:
            step(message)
        except Malformed as error:
            assert "secret" not in str(error)  # noqa: PT017


# -- what is stored


def test_verifier_format() -> None:
    # The keys of RFC 7677's example.
    verifier = scram.derive_verifier("pencil", SALT)
    text = verifier.format()
    assert text == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert scram.parse_verifier(text) == verifier
    assert passwords.kind_of(text) is Kind.SCRAM


@pytest.mark.parametrize(
    ("password", "stored"),
    [
        (
            "\xdf\xe4",
            "SCRAM-SHA-256$4096:LJTImUcofMrmEgeNxiVpKw==$mw0SzNwN3vJa6zUuppIMTqi4AuFGf/jNQS/"
            "tnMT8ofc=:2OykPRhmosRQTWe4x+gkBoYu7oY9bwcn50Tf7Q31sTA=",
        ),
        (  # mapped
            "a\u200bb",
            "SCRAM-SHA-256$4096:P+rQA3eDNfUNd/yrW09tGA==$cIKf94TNPhxy+WQvQW5gfJabGcdl9cAGjZK"
            "Sxe7cHxk=:uJbytIGnmbFxsKKx8ArQQP+Z+TNMNq1bxNTn9NFoKa4=",
        ),
        (  # prohibited, so used as it is
            "\u0627\u0031",
            "SCRAM-SHA-256$4096:+QDIs8SZSRKhptXU25bQZg==$EB4mJ+JBOHZWKe6esL7S1OQAF5kBsPCCAQS"
            "RrdsQDvk=:xp3Ty9rVwbUYHXjDNWaGI0ePULZtJFHjikHLBsFM+Ss=",
        ),
    ],
)
def test_verifiers_made_by_postgresql(password: str, stored: str) -> None:
    verifier = scram.parse_verifier(stored)
    assert verifier is not None
    assert verifier.matches(password)
    assert verifier.format() == stored


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCRAM-SHA-256", "SCRAM-SHA-1"),
        ("$4096", "$0"),
        ("$4096", "$-1"),
        ("$4096", "$x"),
        ("$4096:", "$"),
        ("gQ==", "gQ="),
        ("qY=", "qY"),
        ("qY=", "qYA="),
        ("qY=:", "qY="),
        ("2dU=", "2dU=\n"),
        ("2dU=", ""),
    ],
)
def test_what_is_no_verifier_is_a_plain_password(old: str, new: str) -> None:
    text = scram.derive_verifier("pencil", SALT).format()
    assert old in text
    broken = text.replace(old, new)
    assert scram.parse_verifier(broken) is None
    assert passwords.kind_of(broken) is Kind.PLAIN


def test_a_repr_shows_no_secret() -> None:
    assert repr(VERIFIER) == "Verifier(iterations=2, salt=b'salt')"


def test_an_unknown_user_is_the_same_each_time() -> None:
    for invent in (scram.user_salt, scram.mock_password):
        mock = invent(b"key", "bob")
        assert mock == invent(b"key", "bob")
        assert mock != invent(b"key", "eve")
        assert mock != invent(b"other", "bob")
    assert len(scram.user_salt(b"key", "bob")) == scram.SALT_SIZE


def test_a_keyring_derives_once() -> None:
    ring = scram.Keyring(limit=2)
    assert ring.keys("pencil", b"salt", 2) == scram.derive_keys("pencil", b"salt", 2)
    for _ in range(3):
        ring.keys("pencil", b"salt", 2)
    assert ring.derived == 1
    for password, salt, iterations in (("other", b"salt", 2), ("pencil", b"salt", 2)):
        ring.keys(password, salt, iterations)
    assert ring.derived == 2
    for password, salt, iterations in (("pencil", b"s", 2), ("other", b"salt", 2)):
        ring.keys(password, salt, iterations)  # the one used longest ago was forgotten
    assert ring.derived == 4
    assert "pencil" not in repr(ring) + repr(dir(ring))


@pytest.mark.parametrize("size", [0, 55, 56, 64, 300])
def test_a_mac_is_the_librarys(size: int) -> None:
    mac = scram._Mac(SALT * 2)
    for data in (bytes(range(256))[:size], b"x" * size):
        assert mac.digest(data) == hmac.digest(SALT * 2, data, "sha256")


def test_a_keyring_reads_a_verifier_once() -> None:
    ring = scram.Keyring(limit=2)
    texts = [scram.derive_verifier("pencil", bytes([salt]), 2).format() for salt in range(3)]
    first = ring.stored(texts[0])
    assert first == scram.parse_verifier(texts[0])
    assert ring.stored(texts[0]) is first
    for text in texts[1:]:
        ring.stored(text)
    again = ring.stored(texts[0])  # more than the limit: all are forgotten
    assert again == first
    assert again is not first
    for other in ("pencil", "", passwords.md5_secret("pencil", "bob")):
        assert ring.stored(other) is None


def test_what_a_client_proves_logs_in_with_the_same_verifier() -> None:
    server = ServerExchange(VERIFIER, OTHER_NONCE)
    assert server.keys is None
    assert exchange(ClientExchange("secret", NONCE), server) is True
    keys = server.keys
    assert keys is not None
    assert keys == scram.derive_keys("secret", b"salt", 2)
    assert repr(keys) == "Keys(iterations=2)"
    assert exchange(ClientExchange(keys, NONCE), ServerExchange(VERIFIER, OTHER_NONCE)) is True
    for salt, iterations in ((b"other", 2), (b"salt", 3)):
        other = scram.derive_verifier("secret", salt, iterations)
        with pytest.raises(scram.DifferentVerifier):
            exchange(ClientExchange(keys, NONCE), ServerExchange(other, OTHER_NONCE))
    other = scram.derive_verifier("changed", b"salt", 2)
    assert exchange(ClientExchange(keys, NONCE), ServerExchange(other, OTHER_NONCE)) is None


def test_a_wrong_proof_yields_no_keys() -> None:
    server = ServerExchange(VERIFIER, OTHER_NONCE)
    assert exchange(ClientExchange("wrong", NONCE), server) is None
    assert server.keys is None


# RFC 4013, section 3, and the cases where PostgreSQL uses the password as it is.
@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\xadX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\xaa", "a"),
        ("\u2168", "IX"),
        ("\x07", "\x07"),  # ASCII is left alone
        ("\xe9\x07", None),
        ("\u0627\u0031", None),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("\u0627a\u0628", None),
        ("a\xa0b", "a b"),
        ("a\u200bb", "a b"),  # both a space and mapped to nothing: a space, as in PostgreSQL
        ("\xad", None),  # nothing left
        ("\ue000", None),
        ("\U000e0041x\xe9", None),
        ("\u0221", None),  # unassigned in Unicode 3.2
        ("e\u0301", "\xe9"),
    ],
)
def test_saslprep(text: str, prepared: str | None) -> None:
    assert scram.saslprep(text) == prepared


def test_a_password_that_is_no_utf8_is_used_as_it_is() -> None:
    password = b"\xe9\xff".decode("utf-8", "surrogateescape")
    assert scram._normalised(password) == b"\xe9\xff"
    assert scram.derive_verifier(password, b"s", 1).matches(password)


# -- md5


def test_md5() -> None:
    secret = passwords.md5_secret("mm", "m")
    assert secret == "md5c4efd5020cb49b9d3257ffa0fbccc0ae"  # PostgreSQL's
    assert passwords.kind_of(secret) is Kind.MD5
    assert passwords.kind_of(secret.upper()) is Kind.PLAIN
    assert passwords.kind_of(secret + "0") is Kind.PLAIN
    answer = passwords.md5_answer("mm", "m", b"salt")
    assert answer == passwords.md5_answer(secret, "m", b"salt")
    assert passwords.answers_md5(secret, "m", b"salt", answer)
    assert passwords.answers_md5("mm", "m", b"salt", answer)
    assert not passwords.answers_md5(secret, "m", b"pepr", answer)
    assert not passwords.answers_md5(secret, "m", b"salt", "\udcff")


@pytest.mark.parametrize("password", ["secret", "pässwörd", "\udcff", "md5"])
def test_clear_text_against_each_kind(password: str) -> None:
    stored = [
        password,
        passwords.md5_secret(password, "bob"),
        scram.derive_verifier(password, b"salt", 2).format(),
    ]
    assert [passwords.kind_of(secret) for secret in stored] == list(Kind)
    for secret in stored:
        assert passwords.matches(secret, "bob", password)
        assert not passwords.matches(secret, "bob", password + "x")
        assert not passwords.matches(secret, "bob", "")
