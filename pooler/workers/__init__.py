"""Several worker processes that are one pooler: the supervisor, and its workers."""
