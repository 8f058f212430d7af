"""What became of each setting, for people.

Rules: shows names and reasons, never a value.
"""

import os
from collections.abc import Iterator, Sequence

from pooler.config.problem import printable
from pooler.importer.answers import Verdict
from pooler.importer.convert import Finding

_HEADS = {
    Verdict.UNSUPPORTED: "Not supported: what you lose",
    Verdict.CHANGED: "Changed meaning: what to read",
    Verdict.UNNEEDED: "Not needed any more",
    Verdict.KEPT: "Kept",
}


def report(path: str, findings: Sequence[Finding]) -> str:
    """All findings by verdict, what needs attention first."""
    return "\n".join([_summary(path, findings), *_groups(findings)]) + "\n"


def notes(findings: Sequence[Finding]) -> tuple[str, ...]:
    """A line for each setting that is not supported, for the log."""
    return tuple(_line(f) for f in findings if f.verdict is Verdict.UNSUPPORTED)


def _summary(path: str, findings: Sequence[Finding]) -> str:
    counts = [
        f"{sum(f.verdict is verdict for f in findings)} {verdict.value}"
        for verdict in reversed(Verdict)
    ]
    return f"{printable(path)}: {', '.join(counts)}"


def _groups(findings: Sequence[Finding]) -> Iterator[str]:
    for verdict in Verdict:
        found = [f for f in findings if f.verdict is verdict]
        if found:
            yield f"\n{_HEADS[verdict]}"
            yield from (f"  {_line(f)}" for f in sorted(found, key=_place))


def _place(finding: Finding) -> tuple[bool, int]:
    """In the order of the file; what was not written comes last."""
    return not finding.origin.line, finding.origin.line


def _line(finding: Finding) -> str:
    origin = finding.origin
    place = f"{os.path.basename(origin.file)}:{origin.line}: " if origin.line else "(default) "
    to = f" -> {', '.join(finding.to)}" if finding.to else ""
    why = f": {finding.why}" if finding.why else ""
    return printable(f"{place}{finding.setting}{to}{why}")
