"""pooler: a PostgreSQL connection pooler."""

__version__ = "0.1.0"


def build_kind() -> str:
    """Return "compiled" where the hot path runs as a C extension, else "interpreted"."""
    from pooler.wire import cutter

    return "interpreted" if cutter.__file__.endswith(".py") else "compiled"
