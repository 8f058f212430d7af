"""The PostgreSQL frontend/backend protocol, version 3, as bytes and ints only.

Knows no socket, loop, clock, pool or setting: bytes in, bytes and plain values out.
"""
