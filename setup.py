"""Compiles what each byte and each login goes through to a C extension with mypyc.

POOLER_COMPILE says whether: `yes` (or it is an error), `no`, or, by default, where there is a C
compiler with Python's headers, and the installation is not an editable one, whose files are to
count as they are edited. The same files run interpreted where it is not done; everything else is
in pyproject.toml.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from subprocess import DEVNULL

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError

ROOT = Path(__file__).parent
PACKAGES = ("pooler/wire", "pooler/core", "pooler/login")
MODULES = ("pooler/tls.py",)
INTERPRETED = frozenset(
    {
        "__init__.py",
        "edge.py",  # subclassed by what is not compiled
        "errors.py",  # likewise
    }
)
OPTIONS = ("--config-file=", "--follow-imports=silent", "--ignore-missing-imports")
"""mypy's: what is only imported is not compiled, and what it imports need not be installed."""
COMMANDS = frozenset({"bdist_wheel", "build", "build_ext", "install"})
"""Those that build; the others only ask for metadata."""

ANSWERS = {"yes": True, "1": True, "no": False, "0": False, "": None}


def wanted() -> bool | None:
    """Return what POOLER_COMPILE says; None: as it comes."""
    answer = os.environ.get("POOLER_COMPILE", "").lower()
    if answer not in ANSWERS:
        raise SystemExit(f"POOLER_COMPILE={answer}: it is yes, no or nothing")
    return ANSWERS[answer]


def can_compile() -> bool:
    """Return whether there is a C compiler, and Python's headers for it."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    include = sysconfig.get_path("include")
    command = [*shlex.split(compiler), "-fsyntax-only", f"-I{include}", "-xc", "-"]
    try:
        return not subprocess.run(command, input=b"#include <Python.h>", stderr=DEVNULL).returncode
    except OSError:
        return False


def sources() -> list[str]:
    """Return the files to be compiled, by their paths from here."""
    return [
        *MODULES,
        *(
            path.relative_to(ROOT).as_posix()
            for package in PACKAGES
            for path in sorted((ROOT / package).glob("*.py"))
            if path.name not in INTERPRETED
        ),
    ]


def translated() -> list[Extension]:
    """Return mypyc's extensions; their C files are in `build`."""
    from mypyc.build import mypycify

    os.chdir(ROOT)
    extensions: list[Extension] = mypycify(
        [*OPTIONS, *sources()], opt_level="3", group_name="pooler"
    )
    return extensions


def extensions() -> list[Extension]:
    """Return what there is to compile: nothing, where it cannot or need not be done."""
    asked = wanted()
    builds = COMMANDS | ({"editable_wheel"} if asked else set())
    if asked is False or not builds & set(sys.argv):
        return []
    if asked:
        return translated()
    if not can_compile():
        print("no C compiler, or no headers of Python: pooler will be interpreted")
        return []
    try:
        return translated()
    except (Exception, SystemExit) as error:  # mypyc leaves by sys.exit
        print(f"mypyc: {error}: pooler will be interpreted")
        return []


class Build(build_ext):
    """Goes on without the extensions that do not compile, unless they were asked for."""

    def run(self) -> None:
        """Compile."""
        try:
            super().run()
        except (BaseError, OSError) as error:
            if wanted():
                raise
            print(f"{error}: pooler will be interpreted")
            self.extensions = self.distribution.ext_modules = []


setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
