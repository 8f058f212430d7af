"""Checks that need more than one setting.

Rules: a check names the settings it looked at, so that it can be left out where one of them is
already known to be wrong: a mistake is reported, its consequences are not.
"""

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pooler.config.model import AuthType, Settings
from pooler.config.tree import Path


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
    if not settings.databases:
        yield Clash(
            ("databases",),
            "no database is configured",
            "list one under databases, or give --upstream postgresql://host/dbname",
        )
    yield from _logins(settings, upstream, secrets)


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
    has_secret = bool(secrets) or any(user.password for user in settings.users.values())
    if settings.auth.type is not AuthType.TRUST and not has_secret:
        yield Clash(
            ("users",),
            f"auth.type is {settings.auth.type.value} and no user has a password: nobody could "
            "log in",
            "give users passwords, name an auth.file, or set auth.type: trust",
            looked_at,
        )
