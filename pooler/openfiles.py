"""The limit of open files, of which every connection is one."""

import resource
from typing import Final, NamedTuple

from pooler.config import Config

OWN: Final = 150
"""Files of our own: listening sockets, logs, certificates; and clients that are being refused."""


class Shortage(NamedTuple):
    """More connections are configured than there may be files."""

    limit: int
    needed: int


def raise_limit() -> None:
    """Allow as many open files as the hard limit does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shortage(config: Config) -> Shortage | None:
    """Return how many files are needed and may not be had; None where there are enough.

    That is what the limits of clients and servers add up to. Where there is no limit of servers,
    it is one full pool for each database that is configured by name.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits, defaults = config.limits, config.defaults
    servers = limits.max_server_connections
    if not servers:
        for database in config.databases.values():
            size = database.pool_size
            servers += defaults.pool_size if size is None else size
    needed = limits.max_client_connections + servers + OWN
    if limit == resource.RLIM_INFINITY or needed <= limit:
        return None
    return Shortage(limit, needed)
