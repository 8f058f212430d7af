"""Poolers with workers are replaced, also by poolers with another number of them."""

import psycopg
import pytest

from tests.adversity.witness import Witness
from tests.upgrade.conftest import StartLine

NUMBERS = [(2, 2), (1, 2), (2, 1), (3, 2)]
numbers = pytest.mark.parametrize(("before", "after"), NUMBERS)


def write(line, **changes):
    line.config = {**line.config, **changes}
    line._write(line.config)


@numbers
def test_idle_clients_go_on(start_line: StartLine, before: int, after: int) -> None:
    line = start_line(workers=before)
    clients = []
    for number in range(8):
        client = line.connect(prepare_threshold=0)
        client.execute(f"SET my.own = '{number}'")
        client.execute("SELECT %s::int + 1", [number])
        clients.append(client)
    write(line, workers=after)
    with Witness(line):
        line.upgrade()
    for number, client in enumerate(clients):
        assert client.execute("SELECT current_setting('my.own')").fetchone() == (str(number),)
        assert client.execute("SELECT %s::int + 1", [number]).fetchone() == (number + 1,)
        client.close()
