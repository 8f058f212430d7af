"""`pooler doctor`: logs in to every configured database as a server connection would.

One line for each (database, user) that can be known without a client: what answered, or what is
wrong and where to look.
"""

import sys
from collections.abc import Iterator
from typing import Final

from pooler.config import Config
from pooler.core.settings import Host, Route, TargetTls

TIMEOUT: Final = 10  # seconds for each host

_ADVICE: Final = {
    "28P01": "the password in `databases` or `users` is not the one PostgreSQL has",
    "28000": "PostgreSQL's pg_hba.conf does not let this user in from here",
    "3D000": "set `dbname`, or create the database",
    "53300": "PostgreSQL is full: its max_connections must exceed the sum of all pool_size",
    "certificate": "`server_tls.ca_file` must hold the CA of the server's certificate, and `host` "
    "must be one of its names",
    "no TLS": "set `ssl = on` in postgresql.conf, or `server_tls.sslmode: prefer`",
    "57P03": "PostgreSQL is starting up or shutting down",
}


def run(config: Config) -> int:
    """Check all databases; return 0 when every one can be used, 1 otherwise."""
    try:
        import psycopg
    except ImportError:
        print("pooler doctor: needs psycopg: pip install 'pooler[client]'", file=sys.stderr)
        return 1
    wrong = 0
    for route in _routes(config):
        for host in route.target.hosts:
            where = f"{route.database} as {route.target.user} at {host}"
            try:
                with psycopg.connect(_conninfo(route, host)) as connection:
                    row = connection.execute(
                        "SELECT current_setting('server_version'),"
                        " current_setting('max_connections')::int, pg_is_in_recovery()"
                    ).fetchone()
                assert row is not None
                print(f"ok    {where}: PostgreSQL {row[0]}{', a standby' if row[2] else ''}")
                if route.pool.pool_size >= row[1]:
                    wrong += 1
                    print(
                        f"WRONG {where}: pool_size {route.pool.pool_size} is not below"
                        f" PostgreSQL's max_connections {row[1]}"
                    )
            except psycopg.Error as error:
                wrong += 1
                advice = _ADVICE.get(error.sqlstate or "") or _guess(str(error))
                print(f"WRONG {where}: {_one_line(error)}{f' ({advice})' if advice else ''}")
    for name in config.databases:
        if not any(route.database == name for route in _routes(config)):
            print(f"skip  {name}: whom to log in as is up to its clients")
    return 1 if wrong else 0


def _routes(config: Config) -> Iterator[Route]:
    """Yield what can be tried: forced users, and users whose password we hold in plain text."""
    for name, database in config.databases.items():
        if name == "*" and not database.dbname:
            continue
        users = [database.user] if database.user else list(config.users)
        for user in users:
            route = config.resolve(name, user)
            if route is not None and (database.user or route.target.password is not None):
                yield route


def _conninfo(route: Route, host: Host) -> str:
    from psycopg.conninfo import make_conninfo

    target = route.target
    return make_conninfo(
        host=host.host,
        port=host.port,
        dbname=target.dbname,
        user=target.user,
        password=target.password,
        connect_timeout=TIMEOUT,
        application_name="pooler doctor",
        **_encryption(target.tls),
    )


def _encryption(tls: TargetTls) -> dict[str, str]:
    """Return libpq's options of a database's TLS settings; all but the ciphers have one."""
    options = {
        "sslmode": tls.sslmode.value,
        "sslrootcert": tls.ca_file,
        "sslcrl": tls.crl_file,
        "sslcert": tls.cert_file,
        "sslkey": tls.key_file,
        "ssl_min_protocol_version": tls.min_protocol_version,
        "channel_binding": tls.channel_binding,
        # libpq knows it since version 17, so it is told only where it matters
        "sslnegotiation": "" if tls.sslnegotiation == "postgres" else tls.sslnegotiation,
    }
    return {name: value for name, value in options.items() if value}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _guess(text: str) -> str:
    """Return advice on an error without SQLSTATE, as libpq makes them of a failed login."""
    for words, sqlstate in (
        ("password authentication failed", "28P01"),
        ("no password supplied", "28P01"),
        ("certificate verify failed", "certificate"),
        ("does not match host name", "certificate"),
        ("does not support SSL", "no TLS"),
        ("pg_hba.conf", "28000"),
        ("does not exist", "3D000"),
        ("too many clients", "53300"),
        ("starting up", "57P03"),
        ("shutting down", "57P03"),
    ):
        if words in text:
            return _ADVICE[sqlstate]
    if "refused" in text or "No such file" in text:
        return "nothing listens there: is PostgreSQL running, and are host and port right?"
    if "timeout" in text:
        return "no answer: a firewall, or a wrong address?"
    return ""
