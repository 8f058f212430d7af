"""Files that change under a running pooler: new connections go by them, old ones live on."""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.rawclient import RawClient
from tests.tls.certificates import Pair
from tests.tls.conftest import HOSTS, Certificates, config_for

WAIT = 15.0  # seconds


@pytest.fixture
def pair(certs: Certificates, tmp_path: Path) -> Pair:
    """A certificate and key to be replaced."""
    files = Pair(tmp_path / "now.crt", tmp_path / "now.key")
    certs.pooler.copy_to(files)
    return files


@pytest.fixture
def pooler(postgres: Postgres, certs: Certificates, pair: Pair, tmp_path: Path) -> Iterator[Pooler]:
    folder = tmp_path / "pooler"
    folder.mkdir()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(certs.ca.pem)
    tls = {"cert_file": str(pair.cert), "key_file": str(pair.key), "ca_file": str(ca)}
    running = Pooler(config_for(postgres, tls=tls), folder)
    running.start()
    yield running
    running.close()


def serial(pooler: Pooler) -> int:
    """Of the certificate that a new client is shown."""
    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with RawClient(pooler.host, pooler.port) as client:
        client.send(raw.SSL_REQUEST)
        assert client.receive(1) == b"S"
        client.socket = context.wrap_socket(client.socket)
        der = client.socket.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def wait_for(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def logged(pooler: Pooler, event: str) -> list[dict[str, Any]]:
    return [entry for entry in pooler.log if entry.get("event") == event]


def test_new_certificate_under_load(pooler: Pooler, pair: Pair, certs: Certificates) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []
    done = [0]

    def work() -> None:
        try:
            with pooler.connect("bob", sslmode="require") as steady:
                while not stop.is_set():
                    steady.execute("SELECT 1")
                    with pooler.connect("bob", sslmode="require") as fresh:
                        fresh.execute("SELECT 1")
                    done[0] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        before = serial(pooler)
        certs.ca.issue("localhost", HOSTS).copy_to(pair)
        wait_for(lambda: serial(pooler) != before)
        enough = done[0] + 20
        wait_for(lambda: done[0] > enough or bool(errors))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    (event,) = logged(pooler, "reloaded")
    assert set(event["changes"]) == {f"{pair.cert}: (changed)", f"{pair.key}: (changed)"}


@pytest.mark.parametrize("signal", [False, True])
def test_broken_file(pooler: Pooler, pair: Pair, certs: Certificates, signal: bool) -> None:
    before = serial(pooler)
    with pooler.connect("bob", sslmode="require") as old:
        pair.key.write_text("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")
        if signal:
            event = pooler.reload(pooler.config)
            assert event["event"] == "reload failed"
        wait_for(lambda: bool(logged(pooler, "reload failed")))
        (problem, *_) = logged(pooler, "reload failed")[0]["problems"]
        assert "tls." in problem
        assert "can not be used with its key" in problem
        assert "hunter2" not in pooler.log_text
        assert serial(pooler) == before
        certs.ca.issue("localhost", HOSTS).copy_to(pair)
        wait_for(lambda: serial(pooler) != before)
        assert old.execute("SELECT 1").fetchone() == (1,)


def test_a_setting_that_cannot_be_had_changes_nothing(pooler: Pooler, pair: Pair) -> None:
    config = {**pooler.config, "tls": {**pooler.config["tls"], "ca_file": "nowhere.crt"}}
    config["limits"] = {"max_client_connections": 1}
    assert pooler.reload(config)["event"] == "reload failed"
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(pooler.connect("bob", sslmode="require"))


def test_revoked_from_now_on(pooler: Pooler, certs: Certificates, tmp_path: Path) -> None:
    crl = tmp_path / "clients.crl"
    crl.write_bytes(certs.ca.revoke().read_bytes())
    tls = {**pooler.config["tls"], "sslmode": "verify-ca", "crl_file": str(crl)}
    assert pooler.reload({**pooler.config, "tls": tls})["event"] == "reloaded"
    options = {
        "sslmode": "require",
        "sslcert": str(certs.app.cert),
        "sslkey": str(certs.app.key),
    }
    with pooler.connect("bob", **options) as old:
        crl.write_bytes(certs.ca.revoke(certs.app).read_bytes())
        wait_for(lambda: any("clients.crl" in str(e) for e in logged(pooler, "reloaded")[1:]))
        with pytest.raises(psycopg.OperationalError, match="certificate revoked"):
            pooler.connect("bob", **options)
        assert old.execute("SELECT 1").fetchone() == (1,)


def test_turned_off_and_on(pooler: Pooler) -> None:
    on = pooler.config
    with pooler.connect("bob", sslmode="require") as old:
        assert pooler.reload({**on, "tls": {"sslmode": "disable"}})["event"] == "reloaded"
        with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
            pooler.connect("bob", sslmode="require")
        assert pooler.reload(on)["event"] == "reloaded"
        with pooler.connect("bob", sslmode="require"):
            pass
        assert old.execute("SELECT 1").fetchone() == (1,)


def test_servers_are_renewed(tls_postgres: Postgres, certs: Certificates, tmp_path: Path) -> None:
    """Another sslmode opens other connections; another CA in the same file serves new ones."""
    folder = tmp_path / "pooler"
    folder.mkdir()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(certs.ca.pem)
    database = {"host": "localhost", "port": tls_postgres.port}
    off = {"*": {**database, "server_tls": {"sslmode": "disable"}}}
    full = {"*": {**database, "server_tls": {"sslmode": "verify-full", "ca_file": str(ca)}}}
    in_use = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    timeouts = {"query_wait_timeout": 1}
    pooler = Pooler(config_for(tls_postgres, databases=off, timeouts=timeouts), folder)
    pooler.start()
    try:
        with pooler.connect("app") as connection:
            assert connection.execute(in_use).fetchone() == (False,)
            pooler.reload({**pooler.config, "databases": full})
            assert connection.execute(in_use).fetchone() == (True,)
            ca.write_bytes(certs.stranger.pem)
            wait_for(lambda: len(logged(pooler, "reloaded")) == 2)
            assert connection.execute(in_use).fetchone() == (True,)  # it lives on
            with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
                pooler.connect("bob")
            ca.write_bytes(certs.ca.pem)
            wait_for(lambda: len(logged(pooler, "reloaded")) == 3)
            with pooler.connect("bob"):
                pass
    finally:
        pooler.close()
