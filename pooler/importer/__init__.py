"""Moving over from PgBouncer: its pgbouncer.ini as our configuration, with a report.

`ini_form` is how `config.load` reads such a file in place of YAML; `run` is `pooler import`.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Final

from pooler.config import ConfigError, load
from pooler.config.authfile import Reader
from pooler.config.load import Draft
from pooler.importer.convert import Imported, convert
from pooler.importer.report import notes, report
from pooler.importer.yamlfile import to_yaml

_HEADING: Final = """\
From {path}, by `pooler import`. Settings that are not here have
their defaults; config/pooler.yaml has them all, docs/moving-from-pgbouncer.md says what differs."""

OWNER_ONLY: Final = 0o600


def ini_form(path: str, reader: Reader) -> Draft:
    """The tree of a pgbouncer.ini, for `config.load`."""
    done = convert(path, reader)
    return Draft(done.tree, done.problems, notes(done.findings))


def run(path: str, output: str | None, environ: Mapping[str, str]) -> int:
    """Write the YAML to `output`, or to standard output, and the report beside it.

    Returns 0, or 1 where the result would not load as it is (a file that is missing, say): then
    the problems are told, with their place in the ini. ConfigError where PgBouncer itself would
    not load it, and then nothing is written; OSError.
    """
    conversions: list[Imported] = []

    def form(path: str, reader: Reader) -> Draft:
        conversions.append(convert(path, reader))
        return Draft(conversions[0].tree, conversions[0].problems, ())

    problems: tuple[object, ...] = ()
    try:
        load(path, environ=environ, form=form)
    except ConfigError as error:
        problems = error.problems
        if conversions[0].problems:
            raise
    done = conversions[0]
    text = to_yaml(done.tree, _HEADING.format(path=os.path.abspath(path)))
    if output is None:
        sys.stdout.write(text)
    else:
        _write(output, text)
    told = sys.stderr if output is None else sys.stdout
    told.write(report(path, done.findings))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _write(path: str, text: str) -> None:
    """A file of its owner's alone, since it may hold passwords; there must be none of that name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
