"""What the system knows of processes."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that one has started and that are there, the oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
