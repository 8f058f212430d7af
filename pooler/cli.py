"""The command line: parses it, and hands over to the part that does the work.

Exit status: 0 done, 1 it failed, 2 wrong use or a wrong configuration.
"""

import argparse
import gc
import json
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

import uvloop

import pooler
from pooler import activation, ctl, healthcheck, importer, openfiles, top
from pooler.activation import NO_ACTIVATION
from pooler.config import Config, ConfigError, Overrides, json_schema, load
from pooler.handover import VARIABLE
from pooler.handover.taker import Taker
from pooler.reload import Overlay, problems_of
from pooler.service import Service

FAILED: Final = 1
MISUSED: Final = 2

YOUNG: Final = 10_000
"""New objects before the garbage collector looks at them. References counted free nearly all: with
the usual 700 it would look after every thirty logins, and find nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parser()
    # `pooler CONFIG` and `pooler --upstream ...` are what one types most: the command is implied.
    if not given or (given[0] not in (*commands, "-h", "--help", "--version")):
        given.insert(0, "run")
    options = parser.parse_args(given)
    options.given = given
    try:
        status: int = options.command(options)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return MISUSED
    return status


def _parser() -> tuple[argparse.ArgumentParser, tuple[str, ...]]:
    parser = argparse.ArgumentParser(
        prog="pooler",
        description="A PostgreSQL connection pooler.",
        epilog="Without a command: `pooler [run] CONFIG` serves. See also the README and docs/.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"pooler {pooler.__version__} ({pooler.build_kind()})",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="serve in the foreground (the default command)")
    _add_configuration(run)
    run.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)  # what a supervisor says
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="check a configuration file, and do nothing else")
    _add_configuration(check)
    check.set_defaults(command=_check)

    doctor = commands.add_parser("doctor", help="check that each configured database answers")
    _add_configuration(doctor)
    doctor.set_defaults(command=_doctor)

    demo = commands.add_parser("demo", help="try it: an embedded PostgreSQL with a pooler in front")
    demo.add_argument("--port", type=int, help="port to listen on (default: 6432)")
    demo.add_argument("--metrics", metavar="HOST:PORT", help="address of /metrics")
    demo.set_defaults(command=_demo)

    health = commands.add_parser("healthcheck", help="ask a running pooler whether it works")
    healthcheck.add_arguments(health)
    health.set_defaults(command=_healthcheck)

    convert = commands.add_parser("import", help="turn a pgbouncer.ini into a configuration file")
    convert.add_argument("ini", metavar="PGBOUNCER.INI")
    convert.add_argument("-o", "--output", metavar="FILE", help="(default: standard output)")
    convert.set_defaults(command=_import)

    ctl.add_parser(commands)
    top.add_parser(commands)

    schema = commands.add_parser("schema", help="print the JSON Schema of the configuration file")
    schema.set_defaults(command=_schema)
    return parser, tuple(commands.choices)


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    file = parser.add_mutually_exclusive_group()
    file.add_argument("config", nargs="?", metavar="CONFIG", help="configuration file, YAML")
    file.add_argument("--ini", metavar="PGBOUNCER.INI", help="PgBouncer's configuration instead")
    parser.add_argument("--upstream", metavar="URL", help="postgresql://... of the database")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where clients connect to")
    parser.add_argument("--metrics", metavar="HOST:PORT", help='address of /metrics, "" for none')


def _load(options: argparse.Namespace, overlay: Overlay | None = None) -> Config:
    settings = tuple((overlay or {}).items())
    overrides = Overrides(options.upstream, options.listen, options.metrics, settings)
    if options.ini is not None:
        form = importer.ini_form
        return load(options.ini, environ=os.environ, overrides=overrides, form=form)
    return load(options.config, environ=os.environ, overrides=overrides)


def _run(options: argparse.Namespace) -> int:
    openfiles.raise_limit()
    try:
        status: int = uvloop.run(_serve(options))
    except OSError as error:
        print(f"pooler: {error}", file=sys.stderr)
        return FAILED
    finally:
        gc.freeze()  # nobody looks for garbage any more: that would take most of the time to exit
    return status


async def _serve(options: argparse.Namespace) -> int:
    read = partial(_load, options)
    if options.worker is not None:
        from pooler.workers.worker import Worker  # as few need it

        number, workers = options.worker[0].split("/")
        channel = socket.socket(fileno=int(options.worker[1]))
        worker = Worker(read, read(), int(number), int(workers), channel)
        _spare_the_collector()
        await worker.run()
        return 0
    file = os.environ.pop(VARIABLE, "")
    taker = Taker(socket.socket(fileno=int(file))) if file else None
    try:
        config = read()
        activated = activation.sockets(os.environ)
        if config.workers > 1 and activated:
            raise OSError(NO_ACTIVATION)
    except (ConfigError, OSError) as error:
        if taker is not None:
            await taker.refuse("; ".join(problems_of(error)))
        raise
    if config.workers > 1:
        from pooler.workers.supervisor import Supervisor

        started_by = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # -m pooler, say
        command = (sys.executable, *started_by, *options.given, "--worker")
        return await Supervisor(read, config, command, taker).run()
    service = Service(read, config, taker, activated)
    _spare_the_collector()
    await service.run()
    return 0


def _spare_the_collector() -> None:
    """Have it look for garbage less often, and never among what is there now, for ever."""
    gc.freeze()
    gc.set_threshold(YOUNG)


def _check(options: argparse.Namespace) -> int:
    config = _load(options)
    print(f"{config.source or 'configuration'}: ok, {len(config.databases)} database(s)")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from pooler import doctor

    return uvloop.run(doctor.run(_load(options)))


def _demo(options: argparse.Namespace) -> int:
    from pooler import demo

    return demo.run(options)


def _import(options: argparse.Namespace) -> int:
    try:
        return importer.run(options.ini, options.output, os.environ)
    except OSError as error:
        print(f"pooler import: {options.output}: {error.strerror}", file=sys.stderr)
        return FAILED


def _healthcheck(options: argparse.Namespace) -> int:
    return healthcheck.run(options.address, options.ready, os.environ)


def _schema(options: argparse.Namespace) -> int:
    print(json.dumps(json_schema(), indent=2))
    return 0
