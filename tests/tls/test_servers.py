"""Servers over TLS: every sslmode, what is verified, what is refused, and how a cancel travels."""

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import yaml

from tests.support import rawclient as raw
from tests.support.pooler import Config, Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.waiting import wait_until
from tests.tls.certificates import Pair
from tests.tls.conftest import HOSTS, Certificates, Poolers, config_for, listening

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
IN_USE = "SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)"


def encrypted(pooler: Pooler, user: str = "app", dbname: str = "app") -> bool:
    with pooler.connect(user, dbname) as connection:
        row = connection.execute(IN_USE).fetchone()
    assert row is not None
    return bool(row[0])


def refusal(pooler: Pooler, user: str = "app", dbname: str = "app") -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        pooler.connect(user, dbname)
    return str(caught.value)


# -- every sslmode


@pytest.fixture(scope="module")
def front(
    poolers: Poolers, postgres: Postgres, tls_postgres: Postgres, certs: Certificates
) -> Pooler:
    """A pooler with a database for each sslmode and each server."""
    databases: Config = {}
    for label, server in (("off", postgres), ("on", tls_postgres)):
        for mode in MODES:
            tls: Config = {"sslmode": mode}
            if mode.startswith("verify"):
                tls["ca_file"] = str(certs.ca.file)
            databases[f"{label}-{mode}"] = {
                "host": "localhost",
                "port": server.port,
                "dbname": "app",
                "server_tls": tls,
            }
    timeouts = {"query_wait_timeout": 1}
    return poolers.get("front", config_for(postgres, databases=databases, timeouts=timeouts))


@pytest.mark.parametrize("mode", MODES)
def test_server_with_tls(front: Pooler, mode: str) -> None:
    assert encrypted(front, "app", f"on-{mode}") is (mode not in ("disable", "allow"))


@pytest.mark.parametrize("mode", MODES)
def test_server_without_tls(front: Pooler, mode: str) -> None:
    if mode in ("disable", "allow", "prefer"):
        assert encrypted(front, "app", f"off-{mode}") is False
    else:
        text = "server does not support SSL, but SSL was required"
        assert text in refusal(front, "app", f"off-{mode}")
        assert front.log_contains(event="server connection failed", sqlstate="08006", message=text)


def test_fallbacks(front: Pooler) -> None:
    """bob is let in with TLS only, alice only without."""
    assert encrypted(front, "bob", "on-allow") is True
    assert encrypted(front, "bob", "on-prefer") is True
    assert encrypted(front, "alice", "on-prefer") is False
    assert encrypted(front, "alice", "on-allow") is False
    assert "pg_hba.conf rejects connection" in refusal(front, "bob", "on-disable")
    assert "pg_hba.conf rejects connection" in refusal(front, "alice", "on-require")


def test_unix_socket(postgres: Postgres, poolers: Poolers) -> None:
    databases = {"app": {"host": str(postgres.socket_dir), "port": postgres.port}}
    server_tls = {"sslmode": "require"}
    config = config_for(postgres, databases=databases, server_tls=server_tls)
    assert encrypted(poolers.get("unix", config)) is False


# -- what is verified


class TlsServer:
    """In front of PostgreSQL: speaks TLS with a certificate of its own, and notes how it began."""

    def __init__(self, pair: Pair, port: int, alpn: bool = True) -> None:
        self.show(pair, alpn)
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.began: list[bytes] = []
        """The first bytes of each connection, and of each after its TLS had begun."""
        threading.Thread(target=self._accept, daemon=True).start()

    def show(self, pair: Pair, alpn: bool = True) -> None:
        """Speak TLS with this certificate from now on."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair.cert, pair.key)
        if alpn:
            self.context.set_alpn_protocols(["postgresql"])

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            if sock.recv(1, socket.MSG_PEEK) == b"\x16":
                self.began.append(b"\x16")
            else:
                first = sock.recv(8)
                self.began.append(first)
                assert first == raw.SSL_REQUEST
                sock.sendall(b"S")
            secure = self.context.wrap_socket(sock, server_side=True)
            with socket.create_connection(("127.0.0.1", self._target)) as target, secure:
                threading.Thread(target=_pump, args=[target, secure], daemon=True).start()
                data = secure.recv(65536)
                self.began.append(data[:8])
                while data:
                    target.sendall(data)
                    data = secure.recv(65536)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)


MakeServer = Callable[..., TlsServer]


@pytest.fixture
def tls_server(postgres: Postgres) -> Iterator[MakeServer]:
    made: list[TlsServer] = []

    def make(pair: Pair, alpn: bool = True) -> TlsServer:
        made.append(TlsServer(pair, postgres.port, alpn))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def run(poolers: Poolers, postgres: Postgres, request: pytest.FixtureRequest) -> Any:
    def start(databases: Config, **sections: Any) -> Pooler:
        config = config_for(
            postgres, databases=databases, timeouts={"query_wait_timeout": 1}, **sections
        )
        return poolers.get(request.node.name, config)

    return start


def test_verification(run: Any, tls_server: MakeServer, certs: Certificates) -> None:
    ca = str(certs.ca.file)
    wrong_host = certs.ca.issue("elsewhere", ["db.example", "10.0.0.1"])
    by_address = certs.ca.issue("db", ["127.0.0.1"])
    by_common_name = certs.ca.issue("localhost")
    expired, revoked = certs.expired, certs.revoked
    cases: dict[str, tuple[Pair, str, Config, str]] = {
        "unknown ca": (certs.foreign, "localhost", {}, "unable to get local issuer certificate"),
        "expired": (expired, "localhost", {}, "certificate has expired"),
        "expired ca": (expired, "localhost", {"sslmode": "verify-ca"}, "certificate has expired"),
        "require": (certs.foreign, "localhost", {"sslmode": "require"}, "unable to get local"),
        "revoked": (revoked, "localhost", {"crl_file": str(certs.crl)}, "certificate revoked"),
        "wrong host": (wrong_host, "localhost", {}, "Hostname mismatch"),
        "wrong address": (wrong_host, "127.0.0.1", {}, "IP address mismatch"),
        "host by address": (by_address, "localhost", {}, "Hostname mismatch"),
        "address by name": (by_common_name, "127.0.0.1", {}, "IP address mismatch"),
        "address": (by_address, "127.0.0.1", {}, ""),
        "common name": (by_common_name, "localhost", {}, ""),
        "chain": (certs.chained, "localhost", {}, ""),
        "verify-ca": (wrong_host, "localhost", {"sslmode": "verify-ca"}, ""),
        "not revoked": (certs.server, "localhost", {"crl_file": str(certs.crl)}, ""),
        "prefer": (certs.foreign, "localhost", {"sslmode": "prefer"}, ""),
        "require without": (certs.foreign, "localhost", {"sslmode": "require", "ca_file": ""}, ""),
    }
    databases = {
        case.replace(" ", "-"): {
            "host": host,
            "port": tls_server(pair).port,
            "dbname": "app",
            "server_tls": {"sslmode": "verify-full", "ca_file": ca, **tls},
        }
        for case, (pair, host, tls, _) in cases.items()
    }
    pooler = run(databases)

    def judge(case: str) -> None:
        text = cases[case][3]
        database = case.replace(" ", "-")
        if not text:
            with pooler.connect("app", database) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,), case
            return
        said = refusal(pooler, "app", database)
        assert "SSL error: certificate verify failed: " in said, case
        assert text in said, case

    with ThreadPoolExecutor(len(cases)) as threads:
        list(threads.map(judge, cases))
    for case, (_, _, _, text) in cases.items():
        failures = [
            event
            for event in pooler.log
            if event.get("event") == "server connection failed"
            and event["database"] == case.replace(" ", "-")
        ]
        assert bool(failures) is bool(text), case
        assert all(e["sqlstate"] == "08006" and text in e["message"] for e in failures), case


def test_a_certificate_that_does_not_verify_is_told_at_once(
    poolers: Poolers, postgres: Postgres, tls_server: MakeServer, certs: Certificates
) -> None:
    """Also to those who have logged in and wait: nobody gains by waiting."""
    server = tls_server(certs.server)
    tls = {"sslmode": "verify-full", "ca_file": str(certs.ca.file)}
    database = {"host": "localhost", "port": server.port, "server_tls": tls, "pool_size": 1}
    config = config_for(postgres, databases={"app": database})
    config["timeouts"] = {"query_wait_timeout": 600}
    pooler = poolers.get("told at once", config)
    with pooler.connect() as client:
        ((pid,),) = client.execute("SELECT pg_backend_pid()").fetchall()
        server.show(certs.expired)
        postgres.sql("SELECT pg_terminate_backend(%s)", [pid])
        pooler.wait_for_log(event="server closed", pid=pid)
        with pytest.raises(psycopg.OperationalError, match="certificate has expired") as told:
            client.execute("SELECT 1")
        assert told.value.sqlstate == "08006"
        server.show(certs.server)
        wait_until(lambda: _works(client))


def _works(client: psycopg.Connection[Any]) -> bool:
    try:
        return client.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def test_client_certificate(run: Any, tls_postgres: Postgres, certs: Certificates) -> None:
    base = {"host": "localhost", "port": tls_postgres.port, "dbname": "app"}
    own = {"cert_file": str(certs.trusted.cert), "key_file": str(certs.trusted.key)}
    other = {"cert_file": str(certs.other.cert), "key_file": str(certs.other.key)}
    pooler = run(
        {
            "own": {**base, "server_tls": own},
            "other": {**base, "server_tls": other},
            "none": base,
        },
        server_tls={"sslmode": "require"},
    )
    assert encrypted(pooler, "trustuser", "own")
    assert "authentication failed for user" in refusal(pooler, "trustuser", "other")
    assert "requires a valid client certificate" in refusal(pooler, "trustuser", "none")


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_negotiation_and_cancel(
    run: Any, tls_server: MakeServer, certs: Certificates, negotiation: str
) -> None:
    server = tls_server(certs.server)
    tls = {
        "sslmode": "verify-full",
        "ca_file": str(certs.ca.file),
        "sslnegotiation": negotiation,
    }
    pooler = run({"app": {"host": "localhost", "port": server.port, "server_tls": tls}})
    with pooler.connect() as connection:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(20)")
        timer.join()
    first = raw.SSL_REQUEST if negotiation == "postgres" else b"\x16"
    assert server.began[0] == server.began[2] == first
    assert server.began[1][4:6] == b"\0\3"  # a StartupMessage
    assert server.began[3][4:8] == raw.cancel_request(0, b"")[4:8]


def test_direct_without_alpn(run: Any, tls_server: MakeServer, certs: Certificates) -> None:
    server = tls_server(certs.server, alpn=False)
    tls = {"sslmode": "require", "sslnegotiation": "direct"}
    pooler = run({"app": {"host": "localhost", "port": server.port, "server_tls": tls}})
    assert "without ALPN" in refusal(pooler)


# -- channel binding


def test_channel_binding(
    run: Any, tls_server: MakeServer, tls_postgres: Postgres, certs: Certificates
) -> None:
    real = {"host": "localhost", "port": tls_postgres.port, "dbname": "app"}
    # It ends the TLS of the pooler and has one of its own: a man in the middle, but for its CA.
    between = {"host": "localhost", "port": tls_server(certs.server).port, "dbname": "app"}
    binding = {"sslmode": "require", "channel_binding": "require"}
    pooler = run(
        {
            "real": {**real, "server_tls": binding},
            "disabled": {**real, "server_tls": {"channel_binding": "disable"}},
            "between": {**between, "server_tls": binding},
            "unbound": between,
        }
    )
    assert encrypted(pooler, "app", "real")
    assert encrypted(pooler, "app", "disabled")
    assert "channel binding is required" in refusal(pooler, "app", "between")
    assert "channel binding required" in refusal(pooler, "plainuser", "real")
    assert encrypted(pooler, "app", "unbound") is False


def test_pooler_behind_pooler(
    run: Any, poolers: Poolers, tls_postgres: Postgres, certs: Certificates
) -> None:
    """Direct TLS, verified, bound, on both ways."""
    tls = listening(certs, "require")
    back = poolers.get("back", config_for(tls_postgres, tls=tls))
    server_tls = {
        "sslmode": "verify-full",
        "sslnegotiation": "direct",
        "channel_binding": "require",
        "ca_file": str(certs.ca.file),
    }
    database = {"host": HOSTS[0], "port": back.port, "server_tls": server_tls}
    pooler = run({"app": database}, tls=tls)
    options = {"sslmode": "require", "channel_binding": "require"}
    with pooler.connect("bob", **options) as connection:
        timer = threading.Timer(0.5, connection.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(20)")
        timer.join()
        row = connection.execute("SELECT repeat('x', 3000000)").fetchone()
        assert row == ("x" * 3_000_000,)


# -- servers that misbehave


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"E\0\0\0\x0aMx\0\0", "server sent an error response during SSL exchange"),
        (b"H", "received invalid response to SSL negotiation: b'H'"),
        (b"SE\0\0\0\x0aMx\0\0", "received unencrypted data after SSL response"),
        (b"", "server closed the connection during the login"),
        (b"S", "SSL error"),
    ],
)
def test_bad_answer(run: Any, answer: bytes, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with sock:
                        sock.recv(8)
                        sock.sendall(answer)
                        if answer == b"S":
                            sock.recv(1)
                            sock.sendall(b"this is no TLS at all")

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        tls = {"sslmode": "require"}
        pooler = run({"app": {"host": "localhost", "port": port, "server_tls": tls}})
        assert text in refusal(pooler)
        listener.shutdown(socket.SHUT_RDWR)


def test_stalled_handshake(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        pooler = run(
            {
                "app": {
                    "host": "localhost",
                    "port": port,
                    "server_tls": {"sslmode": "require"},
                    "server_connect_timeout": 0.3,
                }
            }
        )
        assert "server_connect_timeout" in refusal(pooler)


def test_doctor(tls_postgres: Postgres, tls_server: MakeServer, certs: Certificates) -> None:
    old = tls_server(certs.server)
    old.context.maximum_version = (
        ssl.TLSVersion.TLSv1_2
    )  # the older versions' ciphers can be chosen
    base = {
        "host": "localhost",
        "port": tls_postgres.port,
        "dbname": "app",
        "user": "bob",
        "password": PASSWORDS["bob"],
    }
    verified = {"sslmode": "verify-full", "channel_binding": "require"}
    config = {
        "auth": {"type": "trust"},
        "databases": {
            "well": {**base, "server_tls": {**verified, "ca_file": str(certs.ca.file)}},
            "ill": {**base, "server_tls": {**verified, "ca_file": str(certs.stranger.file)}},
            **{
                name: {**base, "port": old.port, "server_tls": {"sslmode": "require", **tls}}
                for name, tls in {
                    "cipher": {"ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256"},
                    "no-cipher": {"ciphers": "ECDHE-RSA-AES128-GCM-SHA256"},
                    "version": {"min_protocol_version": "TLSv1.3"},
                }.items()
            },
        },
    }
    file = certs.folder / "doctor.yaml"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "pooler", "doctor", file], capture_output=True, text=True
    )
    assert done.returncode == 1
    told = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert told["well"].startswith("ok    well as bob at localhost:")
    assert "certificate verify failed: " in told["ill"]
    assert "(`server_tls.ca_file` must hold" in told["ill"]
    assert told["cipher"].startswith("ok ")
    for name in ("no-cipher", "version"):
        assert told[name].startswith("WRONG ")
        assert "SSL error: " in told[name]
