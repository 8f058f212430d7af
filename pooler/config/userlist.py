"""PgBouncer's userlist.txt: lines of `"user" "secret"`, a quote inside written twice.

As there, lines that begin with `;` are comments (`#` too) and what follows the secret is ignored.
Rules: a fault names its line and shows nothing of it.
"""

import re

from pooler.config.problem import Problem
from pooler.config.units import secret_fault

_LINE = re.compile(r'\s*"((?:[^"]|"")*)"\s+"((?:[^"]|"")*)"(?=\s|$)')


def parse_userlist(data: bytes, file: str) -> tuple[dict[str, str], list[Problem]]:
    """Secrets by user, and what is wrong with the file. An empty secret is none at all."""
    secrets: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []

    def complain(message: str, hint: str = "") -> None:
        problems.append(Problem(file, number, "", message, hint))

    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            complain("is not UTF-8 text")
            continue
        if not line.strip() or line.lstrip()[0] in ";#":
            continue
        match = _LINE.match(line)
        if not match or "\0" in line:
            complain('is not a line of "user" "secret"', "put both in double quotes")
            continue
        user, secret = (part.replace('""', '"') for part in match.groups())
        if user in secrets:
            complain(f"the user is given twice, first in line {lines[user]}")
        elif fault := secret_fault(secret):
            complain(f"the secret {fault}", "copy rolpassword from pg_authid whole")
        secrets[user], lines[user] = secret, number
    return {user: secret for user, secret in secrets.items() if secret}, problems
