"""A CA with its certificates, PostgreSQL with TLS, and poolers of every sslmode."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.support.pooler import Config, Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.tls.certificates import Authority, Pair, name

HOSTS = ("localhost", "127.0.0.1")

# Beyond what the roles' names say: bob comes with TLS only, alice only without.
_HBA = [
    "hostssl all alice all reject",
    "hostnossl all bob all reject",
    "hostssl all trustuser all trust clientcert=verify-full",
]


class Certificates:
    """What the tests of this package use; made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority(folder)
        self.stranger = Authority(folder, "another CA")
        self.middle = Authority(folder, "intermediate CA", self.ca)
        self.pooler = self.ca.issue("localhost", HOSTS, file="pooler")
        rsa_key = rsa.generate_private_key(65537, 2048)
        self.pooler_rsa = self.ca.issue("localhost", HOSTS, file="pooler-rsa", key=rsa_key)
        self.server = self.ca.issue("db", HOSTS, file="server")
        unit = (NameOID.ORGANIZATIONAL_UNIT_NAME, "Staff, all")
        self.app = self.ca.issue(name("app", unit), file="app")
        self.other = self.ca.issue("somebody", file="somebody")
        self.trusted = self.ca.issue("trustuser", file="trustuser")
        self.expired = self.ca.issue("app", HOSTS, file="expired", days=-1)
        self.revoked = self.ca.issue("app", HOSTS, file="revoked")
        self.foreign = self.stranger.issue("app", HOSTS, file="foreign")
        self.chained = self.middle.issue("app", HOSTS, file="chained")
        self.crl = self.ca.revoke(self.revoked)


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_postgres(postgres_template: Path, certs: Certificates) -> Iterator[Postgres]:
    """PostgreSQL with ssl=on, whose files are in its own folder, where it may read them."""
    server = Postgres(template=postgres_template)
    server._hba = [*_HBA, *server._hba]
    with server:
        data = server.folder / "data"
        pem = {
            "server.crt": certs.server.cert,
            "server.key": certs.server.key,
            "root.crt": certs.ca.file,
        }
        for file, source in pem.items():
            (data / file).write_bytes(source.read_bytes())
            (data / file).chmod(0o600)
        Pair(data / "server.crt", data / "server.key").owned_by(data)
        Pair(data / "root.crt", data / "root.crt").owned_by(data)
        server.sql("ALTER SYSTEM SET ssl_ca_file = 'root.crt'")
        server.sql("ALTER SYSTEM SET ssl = on")
        server.restart()
        yield server


def listening(certs: Certificates, sslmode: str = "prefer", **more: Any) -> Config:
    """The `tls` section of a pooler with a certificate."""
    return {
        "sslmode": sslmode,
        "cert_file": str(certs.pooler.cert),
        "key_file": str(certs.pooler.key),
        **more,
    }


class Poolers:
    """Poolers in front of PostgreSQL that several tests share, started when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, Pooler] = {}
        self._stack = ExitStack()

    def get(self, label: str, config: Config) -> Pooler:
        """The pooler of that label."""
        if label not in self._running:
            folder = self._folder / str(len(self._running))
            folder.mkdir()
            pooler = Pooler(config, folder)
            self._stack.callback(pooler.close)
            pooler.start()
            self._running[label] = pooler
        return self._running[label]

    def close(self) -> None:
        """End them all."""
        self._stack.close()


@pytest.fixture(scope="session")
def poolers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Poolers]:
    shared = Poolers(tmp_path_factory.mktemp("poolers"))
    yield shared
    shared.close()


def config_for(server: Postgres, **sections: Any) -> Config:
    """A pooler's configuration in front of a server, without delays for failed logins."""
    return {
        "listen": {"host": "127.0.0.1", "port": 0},
        "auth": {"type": "scram-sha-256", "failure_delay": 0},
        "users": {role: {"password": password} for role, password in PASSWORDS.items()},
        "databases": {"*": {"host": server.host, "port": server.port, "pool_size": 5}},
        "logging": {"format": "json"},
        **sections,
    }
