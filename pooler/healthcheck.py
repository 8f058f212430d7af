"""Asks a running pooler how it is, for containers that have neither a shell nor curl.

`pooler healthcheck`, or `python -m pooler.healthcheck`, which is quicker since it loads nothing but
the standard library: containers run it every few seconds. Exit status: 0 well, 1 not, 2 wrong use.
"""

import argparse
import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

TIMEOUT: Final = 2.0  # seconds
DEFAULT: Final = "127.0.0.1:9127"
VARIABLE: Final = "POOLER_METRICS_LISTEN"
MAX_ANSWER: Final = 10_000  # bytes that are read of an answer

_EVERYWHERE: Final = ("", "*", "0.0.0.0", "::")
"""Hosts that mean every interface: we ask by way of the loopback."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "address",
        nargs="?",
        metavar="HOST:PORT",
        help=f"its metrics.listen (default: ${VARIABLE}, or {DEFAULT})",
    )
    parser.add_argument(
        "--ready", action="store_true", help="whether it can serve, and not just whether it works"
    )


def run(address: str | None, ready: bool, environ: Mapping[str, str]) -> int:
    """Ask, say what is wrong on standard error, and return the exit status."""
    address = environ.get(VARIABLE, DEFAULT) if address is None else address
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal():
        return _fail(f"{address!r} is not HOST:PORT; metrics.listen has to be set", 2)
    host = "127.0.0.1" if host in _EVERYWHERE else host
    path = "/readyz" if ready else "/healthz"
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return _fail(f"{address}: {error}", 1)
    finally:
        connection.close()
    return 0 if answer.status == 200 else _fail(f"{path}: {answer.status} {body}", 1)


def _fail(message: str, status: int) -> int:
    print(f"pooler healthcheck: {message}", file=sys.stderr)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m pooler.healthcheck")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return run(options.address, options.ready, os.environ)


if __name__ == "__main__":
    sys.exit(main())
