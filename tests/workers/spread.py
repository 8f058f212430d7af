"""Clients at every worker, whichever way the kernel spreads those that connect."""

import socket
from contextlib import ExitStack
from typing import Any

import psycopg

from tests.support.pooler import Pooler
from tests.support.waiting import wait_until

Client = psycopg.Connection[tuple[Any, ...]]


def _come(pooler: Pooler, **options: Any) -> tuple[Client, int]:
    """A new client, and the number of the worker that it is at, as the log has it."""
    seen = len(pooler.log)
    client: Client = pooler.connect(**options)
    with socket.socket(fileno=client.pgconn.socket) as sock:
        try:
            address = f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.detach()
    found: list[int] = []

    def is_told() -> bool:
        found[:] = [
            event["worker"]
            for event in pooler.log[seen:]
            if event.get("event") == "client connected" and event["address"] == address
        ]
        return bool(found)

    wait_until(is_told)
    return client, found[0]


def everywhere(
    pooler: Pooler, stack: ExitStack, size: int, *, workers: int, **options: Any
) -> list[Client]:
    """So many clients, at least one at each worker; the first ones are those, by its number."""
    first: dict[int, Client] = {}
    more: list[Client] = []
    while len(first) < workers or len(first) + len(more) < size:
        client, worker = _come(pooler, **options)
        if worker not in first:
            first[worker] = stack.enter_context(client)
        elif workers + len(more) < size:
            more.append(stack.enter_context(client))
        else:
            client.close()
    return [first[number] for number in range(workers)] + more
