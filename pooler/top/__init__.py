"""`pooler top`: what a running pooler does, live in a terminal, over its console.

Drawn by textual, which is an extra (`pip install pooler[top]`): keys, scrolling, resizing and mice
are its business, which rich would leave to us.
"""

import argparse
import sys
from typing import Final

from pooler import ctl

MISSING: Final = "pooler top needs textual: pip install 'pooler[top]'"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `pooler`."""
    parser = commands.add_parser(
        "top",
        help="watch a running pooler: pools, clients, servers, pins, statements, errors",
        description="Show what a running pooler does, live. Keys are shown at the bottom.",
    )
    ctl.add_connection(parser)
    parser.add_argument(
        "--interval",
        type=_interval,
        default=1.0,
        metavar="SECONDS",
        help="time from look to look (default: 1)",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Watch until told to quit; return the exit status."""
    try:
        from pooler.top import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        print(MISSING, file=sys.stderr)
        return ctl.FAILED
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("pooler top needs a terminal; `pooler ctl show pools` does not", file=sys.stderr)
        return ctl.MISUSED
    try:
        options.password = ctl.password(options)
        return app.watch(options)
    except ctl.CtlError as error:
        for line in (f"pooler top: {error.text}", error.detail, error.hint):
            if line:
                print(line, file=sys.stderr)
        return error.status


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 60:
        raise argparse.ArgumentTypeError("has to be from 0.1 to 60")
    return seconds
