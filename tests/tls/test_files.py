"""Certificates, keys, CAs and CRLs: what is wrong with them, and names as PostgreSQL reads them."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pooler.config import Config, ConfigError, load
from pooler.tls import distinguished_name, end_point
from tests.tls.certificates import Authority, name
from tests.tls.conftest import Certificates


def loaded(folder: Path, *, own: bool = False, **tls: str) -> Config:
    """A configuration with that `tls` section, or `server_tls` of its one database."""
    database: dict[str, object] = {"server_tls": tls} if own else {}
    config = {
        "auth": {"type": "trust"},
        "tls": {} if own else tls,
        "databases": {"app": database},
    }
    file = folder / "pooler.yaml"
    file.write_text(yaml.safe_dump(config))
    return load(str(file), environ={})


def problems(folder: Path, *, own: bool = False, **tls: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, own=own, **tls)
    return [
        f"{problem.path.removeprefix('databases.app.')}: {problem.message}"
        for problem in caught.value.problems
    ]


@pytest.fixture(params=[False, True], ids=["tls", "server_tls"])
def own(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_paths_are_relative_to_the_configuration(certs: Certificates) -> None:
    config = loaded(certs.folder, cert_file="pooler.crt", key_file="pooler.key")
    assert config.certificates.clients is not None
    assert str(certs.pooler.key) in config.files
    target = loaded(certs.folder, own=True, ca_file="test-CA.crt").resolve("app", "u")
    assert target is not None
    assert target.target.tls.ca_file == str(certs.ca.file)


def test_nothing_is_read_where_it_is_off(tmp_path: Path) -> None:
    config = loaded(tmp_path, sslmode="disable", cert_file="nowhere", key_file="nowhere")
    assert config.certificates.clients is None
    loaded(tmp_path, own=True, sslmode="disable", cert_file="nowhere", key_file="nowhere")


def test_bad_files(certs: Certificates, tmp_path: Path, own: bool) -> None:
    where = "server_tls" if own else "tls"
    cert, key = str(certs.pooler.cert), str(certs.pooler.key)
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    damaged = tmp_path / "damaged.crt"
    damaged.write_bytes(certs.pooler.cert.read_bytes().replace(b"M", b"N", 3))
    locked = certs.ca.issue("locked", password=b"hunter2")

    def said(cert_file: str = cert, key_file: str = key, **more: str) -> str:
        (problem,) = problems(tmp_path, own=own, cert_file=cert_file, key_file=key_file, **more)
        assert "hunter2" not in problem
        assert problem.startswith(f"{where}.")
        return problem.removeprefix(f"{where}.")

    assert said(cert_file="no.crt") == (
        "cert_file: the file can not be read: No such file or directory"
    )
    assert said(key_file="no.key").startswith("key_file: the file can not be read")
    assert said(cert_file=str(binary)) == "cert_file: the file is not in PEM format"
    assert said(key_file=str(binary)) == "key_file: the file is not in PEM format"
    assert said(cert_file=key) == "cert_file: the file holds no certificate"
    assert said(key_file=cert) == "key_file: the file holds no private key"
    assert said(cert_file=str(damaged)).startswith("cert_file: can not be used with its key")
    assert said(key_file=str(certs.other.key)) == (
        "key_file: the key is not the one of the certificate"
    )
    assert said(str(locked.cert), str(locked.key)).startswith("key_file: the key is encrypted")
    assert said(ciphers="nonsense") == "ciphers: names no cipher that OpenSSL has"
    assert said(ca_file=str(binary)) == "ca_file: the file is not in PEM format"
    assert said(ca_file=key).startswith("ca_file: the file holds no certificate")
    ca = str(certs.ca.file)
    assert said(ca_file=ca, crl_file=ca) == "crl_file: the file holds no revocation list"


@pytest.mark.parametrize(
    ("mode", "refused"),
    [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o660, True), (0o666, True)],
)
def test_a_key_that_others_can_read(
    certs: Certificates, tmp_path: Path, own: bool, mode: int, refused: bool
) -> None:
    key = tmp_path / "a.key"
    key.write_bytes(certs.pooler.key.read_bytes())
    key.chmod(mode)
    files = {"cert_file": str(certs.pooler.cert), "key_file": str(key)}
    if os.geteuid() == 0 and mode == 0o640:
        refused = False  # as PostgreSQL: root's may be read by a group
    if refused:
        (problem,) = problems(tmp_path, own=own, **files)
        assert problem.endswith("key_file: the file can be read or written by others")
    else:
        loaded(tmp_path, own=own, **files)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_that_is_somebody_elses(certs: Certificates, tmp_path: Path, own: bool) -> None:
    key = tmp_path / "a.key"
    key.write_bytes(certs.pooler.key.read_bytes())
    key.chmod(0o600)
    os.chown(key, 12345, -1)
    (problem,) = problems(tmp_path, own=own, cert_file=str(certs.pooler.cert), key_file=str(key))
    assert problem.endswith("key_file: the file must be owned by the pooler's user or by root")


@pytest.mark.parametrize(
    ("own", "tls", "expected"),
    [
        (False, {"cert_file": "a"}, "tls.cert_file: is of no use alone"),
        (False, {"key_file": "a"}, "tls.key_file: is of no use alone"),
        (False, {"sslmode": "require"}, "tls.sslmode: require needs a certificate to show"),
        (False, {"sslmode": "no"}, "tls.sslmode: 'no' is not one of"),
        (False, {"sslmod": "require"}, "tls.sslmod: unknown key"),
        (False, {"min_protocol_version": "TLSv1.1"}, "tls.min_protocol_version: 'TLSv1.1' is not"),
        (True, {"cert_file": "a"}, "server_tls.cert_file: is of no use alone"),
        (True, {"sslmode": "verify-ca"}, "server_tls.sslmode: verify-ca needs the CA"),
        (
            True,
            {"sslmode": "disable", "crl_file": "a"},
            "server_tls.crl_file: is of no use without ca_file",
        ),
        (True, {"ca_file": "system"}, "server_tls.ca_file: the system's CAs vouch for anybody's"),
        (True, {"sslnegotiation": "direct"}, "server_tls.sslnegotiation: direct can not be had"),
        (True, {"channel_binding": "require"}, "server_tls.channel_binding: require can not"),
        (True, {"sslmod": "require"}, "server_tls.sslmod: unknown key"),
    ],
)
def test_settings(tmp_path: Path, own: bool, tls: dict[str, str], expected: str) -> None:
    found = problems(tmp_path, own=own, **tls)
    assert found[0].startswith(expected)


def test_the_line_of_a_database(tmp_path: Path) -> None:
    file = tmp_path / "pooler.yaml"
    file.write_text(
        "auth: {type: trust}\n"
        "server_tls:\n"
        "  ca_file: nowhere.crt\n"
        "databases:\n"
        "  one: {}\n"
        "  two:\n"
        "    server_tls:\n"
        "      ca_file: nothing.crt\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(str(file), environ={})
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (3, "server_tls.ca_file"),
        (8, "databases.two.server_tls.ca_file"),
    ]


def test_defaults_of_databases(certs: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "pooler.yaml"
    config = {
        "auth": {"type": "trust"},
        "server_tls": {"sslmode": "verify-full", "ca_file": str(certs.ca.file)},
        "databases": {
            "one": {},
            "two": {"server_tls": {"sslmode": "disable"}},
            "*": {"server_tls": {"ca_file": str(certs.stranger.file)}},
        },
    }
    file.write_text(yaml.safe_dump(config))
    found = load(str(file), environ={})
    modes = {}
    for database in ("one", "two", "three"):
        route = found.resolve(database, "u")
        assert route is not None
        tls = route.target.tls
        modes[database] = (tls.sslmode.value, Path(tls.ca_file).name)
        assert (tls in found.certificates.servers) is (database != "two")
    assert modes == {
        "one": ("verify-full", "test-CA.crt"),
        "two": ("disable", "test-CA.crt"),
        "three": ("verify-full", "another-CA.crt"),
    }


def test_loopholes_are_closed(certs: Certificates) -> None:
    context = loaded(
        certs.folder, cert_file=str(certs.pooler.cert), key_file=str(certs.pooler.key)
    ).certificates.clients
    assert context is not None
    options = context.context.options
    assert options & ssl.OP_NO_RENEGOTIATION
    assert options & ssl.OP_NO_COMPRESSION
    assert context.context.minimum_version is ssl.TLSVersion.TLSv1_2


# -- names


SUBJECTS = [
    name("app"),
    name("app", (NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Example, Inc.")),
    name(' #lead and trail "quoted" <a>;b\\c+d= ', (NameOID.DOMAIN_COMPONENT, "example")),
    name("Zoë ☃", (NameOID.EMAIL_ADDRESS, "zoe@example.org"), (NameOID.USER_ID, "zoe")),
    name("#hash", (NameOID.SURNAME, "S"), (NameOID.GIVEN_NAME, "G"), (NameOID.TITLE, "T")),
    name("x", (NameOID.STREET_ADDRESS, "Street 1"), (NameOID.POSTAL_CODE, "12345")),
    x509.Name(
        [
            x509.RelativeDistinguishedName(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, "both"),
                    x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "unit"),
                ]
            ),
            x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.LOCALITY_NAME, "here")]),
        ]
    ),
]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.rfc4514_string())
def test_distinguished_name(certs: Certificates, subject: x509.Name) -> None:
    """As OpenSSL writes it, of which PostgreSQL has it."""
    pair = certs.ca.issue(subject)
    done = subprocess.run(
        ["openssl", "x509", "-in", pair.cert, "-noout", "-subject", "-nameopt", "RFC2253"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"subject={distinguished_name(subject)}" == done.stdout.rstrip("\n")


@pytest.mark.parametrize(
    ("algorithm", "size"), [(hashes.SHA256(), 32), (hashes.SHA384(), 48), (hashes.SHA512(), 64)]
)
def test_end_point(
    certs: Certificates, algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512, size: int
) -> None:
    pair = certs.ca.issue("localhost", algorithm=algorithm)
    der = ssl.PEM_cert_to_DER_cert(pair.cert.read_text())
    digest = hashes.Hash(algorithm)
    digest.update(der)
    assert end_point(der) == digest.finalize()
    assert len(end_point(der)) == size


def test_end_point_of_what_is_no_certificate() -> None:
    assert end_point(b"nothing") == b""


def test_the_first_certificate_of_a_chain_is_bound(certs: Certificates, tmp_path: Path) -> None:
    pair = Authority(tmp_path, "mid", certs.ca).issue(
        "localhost", key=rsa.generate_private_key(65537, 2048)
    )
    config = loaded(tmp_path, cert_file=str(pair.cert), key_file=str(pair.key))
    first = pair.cert.read_text().partition("-----END CERTIFICATE-----")[0]
    der = ssl.PEM_cert_to_DER_cert(f"{first}-----END CERTIFICATE-----\n")
    assert config.certificates.clients is not None
    assert config.certificates.clients.binding == end_point(der) != b""
