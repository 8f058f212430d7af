"""Checks that need more than one setting.

Rules: a check names the settings it looked at, so that it can be left out where one of them is
already known to be wrong: a mistake is reported, its consequences are not.
"""

import importlib.util
import ipaddress
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pooler.config import certificates
from pooler.config.config import CONSOLE
from pooler.config.model import AuthType, Settings
from pooler.config.tree import Path
from pooler.core.settings import SslMode, TargetTls


@dataclass(frozen=True, slots=True)
class Clash:
    """Settings that do not go together."""

    path: Path
    """The one to report, as the most likely one to be changed."""
    message: str
    hint: str
    others: tuple[Path, ...] = ()
    """What else was looked at."""


def _is_local(settings: Settings) -> bool:
    """True where nobody on another machine can connect."""
    return all(_is_loopback(host) for host in settings.listen.host)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def clashes(settings: Settings, *, upstream: bool, secrets: Collection[str]) -> Iterator[Clash]:
    """Every inconsistency; `secrets` are the users of auth.file, `upstream`: a URL was given."""
    yield from _listening(settings)
    yield from _sizes(settings)
    yield from _tls(settings)
    yield from _traces(settings)
    for name in CONSOLE & settings.databases.keys():
        yield Clash(
            ("databases", name),
            "is the name of the console",
            f"give it another name, and dbname: {name}",
        )
    if not settings.databases:
        yield Clash(
            ("databases",),
            "no database is configured",
            "list one under databases, or give --upstream postgresql://host/dbname",
        )
    yield from _rules(settings)
    yield from _logins(settings, upstream, secrets)


def _traces(settings: Settings) -> Iterator[Clash]:
    endpoint = settings.traces.endpoint
    path = ("traces", "endpoint")
    if endpoint and not re.match(r"https?://[^/\s]+/\S", endpoint):
        hint = "write one such as http://127.0.0.1:4318/v1/traces"
        yield Clash(path, "is not the URL of an OTLP collector", hint)
    elif endpoint and not _opentelemetry():
        yield Clash(path, "needs OpenTelemetry", "pip install 'pooler[otel]'")


def _opentelemetry() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def _listening(settings: Settings) -> Iterator[Clash]:
    if not settings.listen.host and not settings.listen.unix_socket_dir:
        yield Clash(
            ("listen", "host"),
            "there is nowhere to listen",
            "set listen.host or listen.unix_socket_dir",
            (("listen", "unix_socket_dir"),),
        )


def _sizes(settings: Settings) -> Iterator[Clash]:
    defaults = settings.defaults
    if defaults.min_pool_size > defaults.pool_size:
        yield Clash(
            ("defaults", "min_pool_size"),
            f"{defaults.min_pool_size} is more than pool_size, {defaults.pool_size}",
            "raise pool_size or lower min_pool_size",
            (("defaults", "pool_size"),),
        )
    for name, database in settings.databases.items():
        if database.pool_size is None and database.min_pool_size is None:
            continue  # the defaults' own clash was reported above
        least = defaults.min_pool_size if database.min_pool_size is None else database.min_pool_size
        size = defaults.pool_size if database.pool_size is None else database.pool_size
        if least > size:
            given = "pool_size" if database.min_pool_size is None else "min_pool_size"
            yield Clash(
                ("databases", name, given),
                f"min_pool_size {least} is more than pool_size {size}",
                "raise pool_size or lower min_pool_size",
                (
                    ("databases", name, "pool_size"),
                    ("databases", name, "min_pool_size"),
                    ("defaults", "pool_size"),
                    ("defaults", "min_pool_size"),
                ),
            )


_PAIR = "set cert_file and key_file, or neither"


def _tls(settings: Settings) -> Iterator[Clash]:
    tls = settings.tls
    here: Path = ("tls",)
    if bool(tls.cert_file) != bool(tls.key_file):
        given = "cert_file" if tls.cert_file else "key_file"
        yield Clash((*here, given), "is of no use alone", _PAIR, (here,))
    elif tls.sslmode.required and not tls.cert_file:
        yield Clash(
            (*here, "sslmode"),
            f"{tls.sslmode.value} needs a certificate to show to clients",
            "set tls.cert_file and tls.key_file",
            (here,),
        )
    if tls.sslmode.verifies and not tls.ca_file:
        yield Clash(
            (*here, "sslmode"),
            f"{tls.sslmode.value} needs the CA of clients' certificates",
            "set tls.ca_file",
            (here,),
        )
    yield from _crl(here, tls.crl_file, tls.ca_file)
    above: Path = ("server_tls",)
    reported: set[str] = set()
    for name, database in settings.databases.items():
        wanted = certificates.target(settings.server_tls, database.server_tls, "")
        own: Path = ("databases", name, "server_tls")
        for key, message, hint in _server_tls(wanted):
            if database.server_tls.model_fields_set:
                yield Clash((*own, key), message, hint, (above, own))
            elif message not in reported:
                reported.add(message)
                yield Clash((*above, key), message, hint, (above,))


def _crl(path: Path, crl_file: str, ca_file: str) -> Iterator[Clash]:
    if crl_file and not ca_file:
        yield Clash((*path, "crl_file"), "is of no use without ca_file", "set ca_file", (path,))


def _server_tls(wanted: TargetTls) -> Iterator[tuple[str, str, str]]:
    """What is inconsistent in one database's settings: key, message, hint."""
    mode = wanted.sslmode
    stronger = "set sslmode to require, verify-ca or verify-full"
    if bool(wanted.cert_file) != bool(wanted.key_file):
        yield "cert_file" if wanted.cert_file else "key_file", "is of no use alone", _PAIR
    if mode.verifies and not wanted.ca_file:
        yield (
            "sslmode",
            f"{mode.value} needs the CA of the servers' certificates",
            "set ca_file to a file, or to system",
        )
    if wanted.crl_file and not wanted.ca_file:
        yield "crl_file", "is of no use without ca_file", "set ca_file"
    if wanted.ca_file == certificates.SYSTEM and mode is not SslMode.VERIFY_FULL:
        yield (
            "ca_file",
            "the system's CAs vouch for anybody's host: they need sslmode verify-full",
            "set sslmode: verify-full",
        )
    if wanted.sslnegotiation == "direct" and not mode.required:
        yield "sslnegotiation", f"direct can not be had with sslmode {mode.value}", stronger
    if wanted.channel_binding == "require" and not mode.required:
        yield "channel_binding", f"require can not be had with sslmode {mode.value}", stronger


def _rules(settings: Settings) -> Iterator[Clash]:
    auth = settings.auth
    given: list[Path] = [("auth", name) for name in ("hba_file", "hba") if getattr(auth, name)]
    if auth.type is AuthType.HBA and not given:
        yield Clash(
            ("auth", "type"),
            "is hba, but there are no rules",
            "name an auth.hba_file, or list rules under auth.hba",
            (("auth", "hba_file"), ("auth", "hba")),
        )
    if given and auth.type is not AuthType.HBA:
        yield Clash(
            given[0],
            f"is not used, since auth.type is {auth.type.value}",
            "set auth.type: hba",
            (("auth", "type"),),
        )
    for names in (("hba_file", "hba"), ("ident_file", "ident")):
        if all(getattr(auth, name) for name in names):
            yield Clash(("auth", names[1]), f"auth.{names[0]} is given as well", "keep one")


def needs_auth_type(settings: Settings, upstream: bool) -> bool:
    """True for a pooler made from a URL, of which nothing says how its clients log in."""
    auth = settings.auth
    return upstream and not settings.users and not auth.file and "type" not in auth.model_fields_set


def _logins(settings: Settings, upstream: bool, secrets: Collection[str]) -> Iterator[Clash]:
    looked_at: tuple[Path, ...] = (("users",), ("auth",), ("listen", "host"))
    if needs_auth_type(settings, upstream):
        if not _is_local(settings):
            yield Clash(
                ("auth", "type"),
                f"is not set, and {', '.join(settings.listen.host)} can be reached from other "
                "machines, whose users would be let in without a password",
                "list users, or set auth.type: trust (POOLER_AUTH_TYPE=trust) to let everybody in",
                looked_at,
            )
        return
    if settings.auth.type in (AuthType.HBA, AuthType.CERT):
        return
    has_secret = (
        bool(secrets)
        or any(user.password for user in settings.users.values())
        or bool(settings.auth.user)
        or any(database.auth_user for database in settings.databases.values())
    )
    if settings.auth.type is not AuthType.TRUST and not has_secret:
        yield Clash(
            ("users",),
            f"auth.type is {settings.auth.type.value} and no user has a password: nobody could "
            "log in",
            "give users passwords, name an auth.file, or set auth.type: trust",
            looked_at,
        )
