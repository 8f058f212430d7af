"""Looks at sessions that nothing hinted at: what they hold beyond their label is a leak.

With `check: always` a server is asked before anybody else gets it, whatever was done on it: what is
found is its client's, and treated as if it had been hinted at. With `sampled` one in so many is
asked: what is found may be anybody's, and is scrubbed. Either way it is counted and logged, by
name: an application does something that hints do not see, and others may have been touched by it.
"""

from typing import TYPE_CHECKING

from pooler.core import hints
from pooler.core.pins import reasons_of
from pooler.core.session import STATEMENT, Settings

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.server import Server


def suspect(server: "Server", client: "Client") -> None:
    """Have a server asked after a transaction that hinted at nothing, if it is its turn."""
    pool = server.pool
    rules = pool.rules
    if client.internal:
        return
    if rules.sampled and (server.touched or server.pins or pool.edge.random() >= rules.sample):
        return
    new = rules.asked & ~server.touched
    server.unhinted |= new
    server.touched |= new


def found(server: "Server", client: "Client", unhinted: int, pins: int) -> tuple[str, ...]:
    """Return the names of what a server holds of `unhinted` that it should not.

    `pins` is what it held before for its client, `client.wants` the settings it should have.
    """
    names = [
        name.replace(STATEMENT, "prepared statement ", 1)
        for name in _changed(server, client)
        if unhinted & (hints.PREPARED if name.startswith(STATEMENT) else hints.SETTINGS)
    ]
    names += reasons_of(server.pins & ~pins & unhinted & ~hints.SETTINGS)
    return tuple(names)


def _changed(server: "Server", client: "Client") -> list[str]:
    before: Settings = client.wants
    after = server.settings
    changed: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        wanted = before.get(name)
        has = after.get(name, server.base.get(name))
        # The server may spell what a client gave at its start in another way.
        if wanted != has and not (wanted is not None and wanted == client.startup.get(name)):
            changed.append(name)
    return changed
