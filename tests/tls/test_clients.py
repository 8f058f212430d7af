"""Clients over TLS: every sslmode on both sides, drivers, certificates, and what is refused."""

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest

from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient
from tests.tls.certificates import Pair
from tests.tls.conftest import Certificates, Poolers, config_for, listening

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@pytest.fixture(scope="session")
def shared(poolers: Poolers, postgres: Postgres, certs: Certificates) -> Pooler:
    """A pooler that asks clients for certificates and takes those without."""
    tls = listening(certs, ca_file=str(certs.ca.file), crl_file=str(certs.crl))
    config = config_for(postgres, tls=tls, timeouts={"client_login_timeout": 2})
    rules = certs.folder / "pg_hba.conf"
    rules.write_text(
        "hostssl all trustuser all cert\n"
        "hostssl all app all scram-sha-256 clientcert=verify-ca\n"
        "host all all all scram-sha-256\n"
    )
    config["auth"] |= {"type": "hba", "hba_file": str(rules)}
    return poolers.get("shared", config)


def encrypted(connection: psycopg.Connection[Any]) -> bool:
    assert connection.execute("SELECT 1").fetchone() == (1,)
    return bool(connection.pgconn.ssl_in_use)


def with_certificate(pair: Pair) -> dict[str, str]:
    return {"sslcert": str(pair.cert), "sslkey": str(pair.key)}


# -- every sslmode


def outcome(listener: str, client: str) -> bool | str:
    """What libpq with that sslmode gets: TLS or not, or words of its error."""
    if listener == "disable":
        if client in ("disable", "allow", "prefer"):
            return False
        return "server does not support SSL, but SSL was required"
    if client == "disable":
        return "SSL required" if listener in ("require", "verify-ca", "verify-full") else False
    if listener in ("verify-ca", "verify-full"):
        return "connection requires a valid client certificate"
    if client == "allow":
        return listener == "require"
    return True


@pytest.mark.parametrize("listener", MODES)
def test_matrix(poolers: Poolers, postgres: Postgres, certs: Certificates, listener: str) -> None:
    more = {"ca_file": str(certs.ca.file)} if listener.startswith("verify") else {}
    tls = listening(certs, listener, **more)
    pooler = poolers.get(f"listener {listener}", config_for(postgres, tls=tls))
    for client in MODES:
        expected = outcome(listener, client)
        options = {"sslmode": client, "sslrootcert": str(certs.ca.file)}
        if isinstance(expected, str):
            with pytest.raises(psycopg.OperationalError) as caught:
                pooler.connect("bob", **options)
            assert expected in str(caught.value), client
        else:
            with pooler.connect("bob", **options) as connection:
                assert encrypted(connection) is expected, client
        if listener != "disable" and client != "disable":
            with pooler.connect("bob", **options, **with_certificate(certs.app)) as connection:
                assert encrypted(connection) is (client != "allow" or expected is not False)


@pytest.mark.parametrize(
    ("listener", "text"),
    [
        ("require", "SSL required"),
        ("verify-ca", "SSL required"),
    ],
)
def test_refused_in_the_clear(
    poolers: Poolers, postgres: Postgres, certs: Certificates, listener: str, text: str
) -> None:
    more = {"ca_file": str(certs.ca.file)} if listener.startswith("verify") else {}
    config = config_for(postgres, tls=listening(certs, listener, **more))
    pooler = poolers.get(f"listener {listener}", config)
    with RawClient(pooler.host, pooler.port) as client:
        client.startup(user="bob", database="app")
        kind, body = client.read()
        fields = raw.error_fields(body)
        assert (kind, fields["S"], fields["C"], fields["M"]) == (b"E", "FATAL", "28000", text)
        assert client.is_closed()


def test_unix_socket_needs_none(postgres: Postgres, certs: Certificates, tmp_path: Path) -> None:
    folder = tmp_path / "pooler"
    folder.mkdir()
    listen = {"host": "127.0.0.1", "port": 0, "unix_socket_dir": str(tmp_path)}
    config = config_for(postgres, listen=listen, tls=listening(certs, "require"))
    pooler = Pooler(config, folder)
    pooler.start()
    try:
        path = next(tmp_path.glob(".s.PGSQL.*"))
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(path))
            plain.sendall(raw.SSL_REQUEST)
            assert plain.recv(1) == b"N"
            plain.sendall(raw.startup_packet({"user": "bob", "database": "app"}))
            assert plain.recv(1) == b"R"
    finally:
        pooler.close()


# -- drivers


def test_psql(shared: Pooler, certs: Certificates) -> None:
    url = shared.dsn(
        "bob", sslmode="verify-full", sslrootcert=str(certs.ca.file), channel_binding="require"
    ).replace(f"@{shared.host}", "@localhost")
    done = subprocess.run(
        ["psql", "-XqAt", "-c", r"\conninfo", "-c", "SELECT 1", url], capture_output=True, text=True
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert "SSL connection (protocol: TLSv1.3" in done.stdout


@pytest.mark.parametrize("binding", ["disable", "prefer", "require"])
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_libpq(shared: Pooler, certs: Certificates, negotiation: str, binding: str) -> None:
    if negotiation == "direct" and psycopg.pq.version() < 170000:
        pytest.skip("this libpq knows no direct TLS")
    more = {} if negotiation == "postgres" else {"sslnegotiation": negotiation}
    with shared.connect(
        "bob",
        sslmode="verify-full",
        sslrootcert=str(certs.ca.file),
        channel_binding=binding,
        **more,
    ) as connection:
        assert encrypted(connection)


def test_psycopg2(shared: Pooler, certs: Certificates) -> None:
    connection = psycopg2.connect(
        shared.dsn("bob"), sslmode="verify-ca", sslrootcert=str(certs.ca.file)
    )
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        assert connection.info.ssl_in_use


@pytest.mark.parametrize("direct", [False, True])
def test_asyncpg(shared: Pooler, certs: Certificates, direct: bool) -> None:
    async def run() -> None:
        context = context_for(certs)  # which asyncpg leaves as it is: ALPN, too, is ours to set
        connection = await asyncpg.connect(
            shared.dsn("bob"), ssl=context, direct_tls=direct, timeout=20
        )
        try:
            assert await connection.fetchval("SELECT $1::int", 7) == 7
        finally:
            await connection.close()

    asyncio.run(run())


def context_for(certs: Certificates, alpn: tuple[str, ...] = ("postgresql",)) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certs.ca.file))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@contextlib.contextmanager
def tls_client(
    pooler: Pooler, certs: Certificates, *, direct: bool = False, alpn: tuple[str, ...] = ()
) -> Iterator[RawClient]:
    """A raw client whose connection is encrypted."""
    with RawClient(pooler.host, pooler.port) as client:
        if not direct:
            client.send(raw.SSL_REQUEST)
            assert client.receive(1) == b"S"
        client.socket = context_for(certs, alpn).wrap_socket(
            client.socket, server_hostname="localhost"
        )
        yield client


def test_direct_tls(shared: Pooler, certs: Certificates) -> None:
    with tls_client(shared, certs, direct=True, alpn=("postgresql",)) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "postgresql"
        client.login("bob", "app", PASSWORDS["bob"])
        assert client.values("SELECT 1") == [[b"1"]]


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_direct_tls_without_its_alpn(
    shared: Pooler, certs: Certificates, alpn: tuple[str, ...]
) -> None:
    with tls_client(shared, certs, direct=True, alpn=alpn) as client:
        kind, body = client.read()
        assert kind == b"E"
        assert raw.error_fields(body)["C"] == "08P01"
        assert client.is_closed()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(shared: Pooler, certs: Certificates, version: ssl.TLSVersion) -> None:
    context = context_for(certs)
    context.minimum_version = context.maximum_version = version
    with RawClient(shared.host, shared.port) as client:
        client.send(raw.SSL_REQUEST)
        assert client.receive(1) == b"S"
        client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
        client.login("bob", "app", PASSWORDS["bob"])
        assert client.values("SELECT 1") == [[b"1"]]
        secured = client.socket
        assert isinstance(secured, ssl.SSLSocket)
        cipher = secured.cipher()
        assert cipher is not None
        port = int(secured.getsockname()[1])
    shared.wait_for_log(
        event="client connected",
        address=f"127.0.0.1:{port}",
        tls=version.name.replace("_", "."),
        cipher=cipher[0],
    )


def test_too_old_a_version(poolers: Poolers, postgres: Postgres, certs: Certificates) -> None:
    tls = listening(certs, min_protocol_version="TLSv1.3", ciphers="HIGH:!aNULL")
    pooler = poolers.get("1.3", config_for(postgres, tls=tls))
    with pooler.connect("bob", sslmode="require"):
        pass
    with pytest.raises(psycopg.OperationalError, match="alert protocol version"):
        pooler.connect("bob", sslmode="require", ssl_max_protocol_version="TLSv1.2")
    assert pooler.wait_for_log(
        event="client refused",
        reason="TLS handshake failed",
        message="could not accept SSL connection",
        cause="unsupported protocol",
    )


# -- certificates of clients


def test_certificate_of_a_client(shared: Pooler, certs: Certificates) -> None:
    options = {"sslmode": "require", **with_certificate(certs.trusted), "password": ""}
    with shared.connect("trustuser", **options) as connection:
        assert encrypted(connection)
    with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
        shared.connect("trustuser", **{**options, **with_certificate(certs.other)})
    with pytest.raises(psycopg.OperationalError, match="requires a valid client certificate"):
        shared.connect("app", sslmode="require")


def test_certificate_with_its_issuer(
    poolers: Poolers, postgres: Postgres, certs: Certificates
) -> None:
    tls = listening(certs, "verify-ca", ca_file=str(certs.ca.file))
    pooler = poolers.get("listener verify-ca", config_for(postgres, tls=tls))
    with pooler.connect("bob", sslmode="require", **with_certificate(certs.chained)) as connection:
        assert encrypted(connection)


@pytest.mark.parametrize(
    ("which", "alert", "cause"),
    [
        ("expired", "certificate expired", "certificate has expired"),
        ("revoked", "certificate revoked", "certificate revoked"),
        ("foreign", "unknown ca", "unable to get local issuer certificate"),
    ],
)
def test_bad_certificate_of_a_client(
    shared: Pooler, certs: Certificates, which: str, alert: str, cause: str
) -> None:
    with pytest.raises(psycopg.OperationalError, match=alert):
        shared.connect("app", sslmode="require", **with_certificate(getattr(certs, which)))
    shared.wait_for_log(
        event="client refused",
        reason="TLS handshake failed",
        cause=f"certificate verify failed: {cause}",
    )


# -- attacks and accidents


def test_clear_text_behind_the_request(shared: Pooler) -> None:
    """CVE-2021-23214."""
    with RawClient(shared.host, shared.port) as client:
        client.send(raw.SSL_REQUEST + raw.startup_packet({"user": "bob", "database": "app"}))
        kind, body = client.read()
        fields = raw.error_fields(body)
        assert (kind, fields["C"]) == (b"E", "08P01")
        assert fields["M"] == "received unencrypted data after SSL request"
        assert client.is_closed()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        raw.startup_packet({"user": "bob", "database": "app"}),
        b"\x16\x03\x01\x00\x05hello",
        b"\x15\x03\x01\x00\x02\x02\x28",
        bytes(1000),
    ],
)
@pytest.mark.parametrize("direct", [False, True])
def test_garbage_handshake(shared: Pooler, garbage: bytes, direct: bool) -> None:
    if direct:
        garbage = b"\x16" + garbage
    with RawClient(shared.host, shared.port) as client:
        if not direct:
            client.send(raw.SSL_REQUEST)
            assert client.receive(1) == b"S"
        client.send(garbage)
        client.socket.settimeout(5)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.socket.recv(4096):
                said += data
        assert said[:1] in (b"", b"\x15")


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
def test_half_a_handshake(shared: Pooler, begun: bytes) -> None:
    before = time.monotonic()
    with RawClient(shared.host, shared.port) as client:
        client.send(raw.SSL_REQUEST)
        assert client.receive(1) == b"S"
        client.send(begun)
        client.socket.settimeout(10)
        assert client.socket.recv(100) == b""
    assert time.monotonic() - before > 1.5
    assert shared.log_contains(event="client refused", reason="client_login_timeout")


def test_gone_during_the_handshake(shared: Pooler) -> None:
    for _ in range(3):
        with RawClient(shared.host, shared.port) as client:
            client.send(raw.SSL_REQUEST)
            assert client.receive(1) == b"S"
            client.send(b"\x16\x03\x01\x02\x00")
    shared.wait_for_log(event="client refused", cause="hung up")


def test_many_at_once(shared: Pooler, certs: Certificates) -> None:
    def login(number: int) -> object:
        with tls_client(shared, certs, direct=number % 2 == 0, alpn=("postgresql",)) as client:
            client.login("bob", "app", PASSWORDS["bob"])
            return client.values(f"SELECT {number}")

    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(login, range(200)))
    assert found == [[[str(number).encode()]] for number in range(200)]


def test_cancel(shared: Pooler, poolers: Poolers, postgres: Postgres, certs: Certificates) -> None:
    """In the clear, as libpq before 17, and encrypted; where TLS is required, too."""
    config = config_for(postgres, tls=listening(certs, "require"))
    pooler = poolers.get("listener require", config)
    with pooler.connect("bob", sslmode="require") as connection:
        for cancel in (connection.cancel, connection.cancel_safe):
            timer = threading.Timer(0.3, cancel)
            timer.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(20)")
            timer.join()


def test_large_messages(shared: Pooler) -> None:
    with shared.connect("bob", sslmode="require") as connection:
        text = "x" * 5_000_000
        row = connection.execute("SELECT length(%s), %s", [text, text]).fetchone()
        assert row == (len(text), text)
        with connection.transaction():
            connection.execute("CREATE TEMP TABLE t (line text) ON COMMIT DROP")
            with connection.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
                for _ in range(100):
                    copy.write(b"y" * 99_999 + b"\n")
            row = connection.execute("SELECT count(*), sum(length(line)) FROM t").fetchone()
            assert row == (100, 9_999_900)


def test_slow_reader(shared: Pooler, certs: Certificates) -> None:
    """Nothing piles up in the pooler for a client that does not read."""
    with tls_client(shared, certs) as client:
        client.login("bob", "app", PASSWORDS["bob"])
        client.values("SELECT 1")
        before = shared.rss
        size = 300_000_000
        client.send(
            raw.query(f"SELECT repeat('x', 100000) FROM generate_series(1, {size // 100_000})")
        )
        most, read, ended = 0, 0, False
        for _ in range(20):
            time.sleep(0.05)
            most = max(most, shared.rss - before)
        while not ended:
            data = client.socket.recv(1 << 20)
            assert data
            read += len(data)
            ended = data.endswith(b"Z\0\0\0\5I")
            if read % 7 == 0:
                most = max(most, shared.rss - before)
        assert read > size
        assert most < 12_000_000


def test_an_end_without_close_notify(shared: Pooler, certs: Certificates) -> None:
    with tls_client(shared, certs) as client:
        client.login("bob", "app", PASSWORDS["bob"])
        client.send(raw.query("SELECT pg_sleep(0.1)"))
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with tls_client(shared, certs) as client:
        client.login("bob", "app", PASSWORDS["bob"])
        assert isinstance(client.socket, ssl.SSLSocket)
        client.socket.unwrap()


def test_ed25519(poolers: Poolers, postgres: Postgres, certs: Certificates) -> None:
    """A signature without a hash function of its own: nothing can be bound to it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    from tests.tls.certificates import DAY, name, now

    key = ed25519.Ed25519PrivateKey.generate()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name("localhost"))
        .issuer_name(name("localhost"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + DAY)
        .sign(key, None)
    )
    pair = Pair(certs.folder / "ed25519.crt", certs.folder / "ed25519.key")
    pair.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
    pair.key.touch(0o600)
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tls = {"cert_file": str(pair.cert), "key_file": str(pair.key)}
    pooler = poolers.get("ed25519", config_for(postgres, tls=tls))
    with pooler.connect("bob", sslmode="require", channel_binding="disable") as connection:
        assert encrypted(connection)
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        pooler.connect("bob", sslmode="require", channel_binding="require")
