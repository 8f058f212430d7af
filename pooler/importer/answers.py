"""What becomes of each setting of PgBouncer: the one table that has an answer for all of them.

An answer takes a setting's text and says what it is here, in which of four ways it is carried over,
and why, in one line. Rules: pure; a value that PgBouncer itself would refuse is `Wrong`; a reason
shows no value, since some are secrets. What hangs on several settings is in `convert`.

Source: PgBouncer 1.25 and 1.26, `doc/config.md` and `src/main.c`.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, NamedTuple

from pooler.config.problem import did_you_mean
from pooler.config.tree import Path


class Verdict(Enum):
    """How a setting is carried over."""

    UNSUPPORTED = "not supported"
    CHANGED = "changed meaning"
    UNNEEDED = "not needed any more"
    KEPT = "kept"


class Outcome(NamedTuple):
    """What became of one setting."""

    verdict: Verdict
    why: str
    """"" where it is the same here."""
    put: tuple[tuple[Path, str], ...] = ()
    """Settings of ours, each with its text."""


class Wrong(ValueError):
    """A value that PgBouncer refuses, too: a predicate, and what would be right."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


Kind = Callable[[str], str]
"""Reads a value as PgBouncer does and writes it as we read it; Wrong."""
Answer = Callable[[str], Outcome]

_MUCH: Final = 0.8
"""Of difflib's measure, by which `poolsize` is 0.94 of `pool_size`, and `secret` 0.6 of `user`."""

# -- kinds of value

_INTEGER = re.compile(r"[ \t]*[+-]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", re.ASCII)
_NEGATIVE = re.compile(r"-[0-9]+", re.ASCII)
_SECONDS = re.compile(r"[ \t]*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)


def _int(text: str) -> int:
    """As strtol with base 0: 0x10 is 16, and so is 020."""
    if not _INTEGER.fullmatch(text):
        raise Wrong("is not a whole number")
    digits = text.strip().lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    is_octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
    return sign * int(digits, 8 if is_octal else 0)


def _count(text: str) -> str:
    return str(_int(text))


def _flag(text: str) -> str:
    return "true" if _int(text) else "false"


def _mode(text: str) -> str:
    return f"{_int(text):04o}"


def _seconds(text: str) -> str:
    if not _SECONDS.fullmatch(text):
        raise Wrong("is not a time in seconds", "write a number such as 5 or 0.5")
    return f"{float(text):.6f}".rstrip("0").rstrip(".")


def _milliseconds(text: str) -> str:
    return _seconds(str(_int(text) / 1000))


def _text(text: str) -> str:
    return text


def _word(*words: str) -> Kind:
    """One of these, in whichever case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise Wrong("is not one of its values", f"write one of {', '.join(words)}")
        return text.lower()

    return read


_POOL_MODE = _word("session", "transaction", "statement")
_SSLMODE = _word("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_BALANCE = _word("round-robin", "disable")


# -- kinds of answer


def kept(path: str, kind: Kind = _text, why: str = "") -> Answer:
    """It means the same."""
    return lambda text: Outcome(Verdict.KEPT, why, ((_path(path), kind(text)),))


def changed(path: str, kind: Kind, why: str) -> Answer:
    """It has a counterpart that differs."""
    return lambda text: Outcome(Verdict.CHANGED, why, ((_path(path), kind(text)),))


def number(path: str, why: str = "", verdict: Verdict = Verdict.KEPT) -> Answer:
    """A number of a connection string. PgBouncer reads what is none as 0; here it stays as it is,
    and our own validation reports it."""

    def answer(text: str) -> Outcome:
        if _NEGATIVE.fullmatch(text):
            return Outcome(Verdict.UNNEEDED, "a negative number is its way to leave it out")
        return Outcome(verdict, why, ((_path(path), text),))

    return answer


def unneeded(why: str, kind: Kind = _text) -> Answer:
    """What it is for is not an issue here."""

    def answer(text: str) -> Outcome:
        kind(text)
        return Outcome(Verdict.UNNEEDED, why)

    return answer


def unsupported(why: str, kind: Kind = _text, off: tuple[str, ...] = ("",)) -> Answer:
    """What it asks for can not be had; with one of the values `off`, it does not ask for it."""

    def answer(text: str) -> Outcome:
        if kind(text) in off:
            return Outcome(Verdict.UNNEEDED, "asks for nothing that is not so here")
        return Outcome(Verdict.UNSUPPORTED, why)

    return answer


def _path(dotted: str) -> Path:
    return tuple(dotted.split("."))


# -- answers of their own


def _auth_type(text: str) -> Outcome:
    word = _word(*("any", "trust", "plain", "md5", "cert", "hba", "ldap", "pam", "scram-sha-256"))(
        text
    )
    here: Path = ("auth", "type")
    if word == "any":
        why = "trust: databases without a user are logged in to as the client's user"
        return Outcome(Verdict.CHANGED, why, ((here, "trust"),))
    if word == "trust":
        why = "who is not in auth_file is let in as well, as far as PostgreSQL knows the user"
        return Outcome(Verdict.CHANGED, why, ((here, "trust"),))
    if word == "plain":
        return Outcome(Verdict.KEPT, "is called password here", ((here, "password"),))
    if word in ("ldap", "pam"):
        why = f"is a rule for everybody here, with the method {word}"
        return Outcome(Verdict.KEPT, why, ((here, "hba"),))
    return Outcome(Verdict.KEPT, "", ((here, word),))


def _listen_addr(text: str) -> Outcome:
    if not text:
        return Outcome(Verdict.KEPT, "no TCP, the unix socket alone", ((("listen", "host"), ""),))
    return Outcome(Verdict.KEPT, "", ((("listen", "host"), text),))


def _unix_socket_dir(text: str) -> Outcome:
    if text.startswith("@"):
        return Outcome(Verdict.UNSUPPORTED, "there are no sockets in the abstract namespace here")
    return Outcome(Verdict.KEPT, "", ((("listen", "unix_socket_dir"), text),))


def _server_check_query(text: str) -> Outcome:
    query = ";" if text == "<empty>" else text
    return Outcome(Verdict.KEPT, "", ((("defaults", "server_check_query"), query),))


def _server_lifetime(section: str) -> Answer:
    def answer(text: str) -> Outcome:
        path: Path = (*_path(section), "server_lifetime") if section else ("server_lifetime",)
        seconds = _seconds(text)
        if seconds == "0":
            why = "0 is no limit here; 1ms has each server connection used once, as 0 does there"
            return Outcome(Verdict.CHANGED, why, ((path, "1ms"),))
        return Outcome(Verdict.KEPT, "", ((path, seconds),))

    return answer


def _protocols(section: str) -> Answer:
    """The oldest of the versions: there is no newest one here."""

    def answer(text: str) -> Outcome:
        words = {"secure": "tlsv1.2,tlsv1.3", "all": "tlsv1.0,tlsv1.1,tlsv1.2,tlsv1.3"}
        words |= {"legacy": words["all"], "default": words["secure"]}
        found = {word.strip() for word in words.get(text.lower(), text.lower()).split(",")}
        if not found <= {"tlsv1.0", "tlsv1.1", "tlsv1.2", "tlsv1.3"}:
            raise Wrong("is not a list of TLS versions", "write secure, or tlsv1.2,tlsv1.3")
        path: Path = (section, "min_protocol_version")
        oldest = "TLSv1.3" if found == {"tlsv1.3"} else "TLSv1.2"
        put = ((path, oldest),)
        if found in ({"tlsv1.2", "tlsv1.3"}, {"tlsv1.3"}):
            return Outcome(Verdict.KEPT, "as the oldest version that is spoken", put)
        why = "TLS 1.2 and 1.3 are spoken, nothing older and nothing less"
        return Outcome(Verdict.CHANGED, why, put)

    return answer


def _ciphers(section: str) -> Answer:
    def answer(text: str) -> Outcome:
        usual = text.lower() in ("default", "secure", "fast", "normal", "")
        put = (((section, "ciphers"), "" if usual else "ALL" if text.lower() == "all" else text),)
        return Outcome(Verdict.KEPT, "the same here, for TLS 1.2", put)

    return answer


def _verbose(text: str) -> Outcome:
    if _int(text) > 0:
        why = "there is one level below info"
        return Outcome(Verdict.CHANGED, why, ((("logging", "level"), "debug"),))
    return Outcome(Verdict.KEPT, "", ((("logging", "level"), "info"),))


def _target_session_attrs(text: str) -> Outcome:
    word = _word("any", "read-write", "read-only", "primary", "standby")(text)
    if word == "any":
        return Outcome(Verdict.UNNEEDED, "any server is accepted here, too")
    return Outcome(Verdict.UNSUPPORTED, "servers are not told apart by what they are")


# -- the tables

_LOGS = "logs go to standard error, for the service manager or the container to keep"
_NO_BUFFER = "bytes are passed on as they come, with a bound on what is kept"
_RESOLVER = "names are looked up by the system at each new server connection, without a cache"

SETTINGS: Final[Mapping[str, Answer]] = {
    # what it is run as
    "conffile": unneeded("a reload reads the file of the command line again"),
    "job_name": unneeded("there is no service to be named"),
    "service_name": unneeded("there is no service to be named"),
    "pidfile": unneeded("it runs in the foreground, below a service manager"),
    "user": unneeded("start it as that user; it never changes its own"),
    # where clients connect to
    "listen_addr": _listen_addr,
    "listen_port": kept("listen.port", _count),
    "listen_backlog": kept("listen.backlog", _count),
    "unix_socket_dir": _unix_socket_dir,
    "unix_socket_mode": kept("listen.unix_socket_mode", _mode),
    "unix_socket_group": kept("listen.unix_socket_group"),
    "so_reuseport": kept("listen.reuse_port", _flag),
    # pools
    "pool_mode": kept("defaults.pool_mode", _POOL_MODE),
    "default_pool_size": kept("defaults.pool_size", _count),
    "min_pool_size": kept("defaults.min_pool_size", _count),
    "reserve_pool_size": kept("defaults.reserve_pool_size", _count),
    "reserve_pool_timeout": kept("timeouts.reserve_pool_timeout", _seconds),
    "server_round_robin": kept("defaults.server_round_robin", _flag),
    "max_client_conn": kept("limits.max_client_connections", _count),
    "max_db_connections": kept("limits.max_db_server_connections", _count),
    "max_db_client_connections": kept("limits.max_db_client_connections", _count),
    "max_user_connections": kept("limits.max_user_server_connections", _count),
    "max_user_client_connections": kept("limits.max_user_client_connections", _count),
    "max_prepared_statements": kept("defaults.max_prepared_statements", _count),
    # how clients log in
    "auth_type": _auth_type,
    "auth_file": kept("auth.file", why="read where it is, by the same syntax"),
    "auth_hba_file": kept("auth.hba_file", why="read where it is, by PostgreSQL 16's syntax"),
    "auth_ident_file": kept("auth.ident_file", why="read where it is, by PostgreSQL 16's syntax"),
    "auth_ldap_options": kept("auth.hba", why="options of the rule that auth_type becomes"),
    "auth_user": changed(
        "auth.user", _text, "asks on a pool of its own, and answers are kept for auth.cache_ttl"
    ),
    "auth_query": kept("auth.query"),
    "auth_dbname": kept("auth.dbname"),
    "scram_iterations": unsupported(
        "a password becomes a verifier of 4096 iterations; store a verifier for more",
        _count,
        ("4096",),
    ),
    "admin_users": kept("admin.users"),
    "stats_users": kept("admin.stats_users"),
    "login_notify_message": unsupported("clients are not greeted with a notice"),
    # TLS to clients
    "client_tls_sslmode": kept("tls.sslmode", _SSLMODE),
    "client_tls_key_file": kept("tls.key_file"),
    "client_tls_cert_file": kept("tls.cert_file"),
    "client_tls_ca_file": changed(
        "tls.ca_file", _text, "a certificate that a client shows has to be right in every sslmode"
    ),
    "client_tls_protocols": _protocols("tls"),
    "client_tls_ciphers": _ciphers("tls"),
    "client_tls13_ciphers": unsupported("Python's TLS has no choice of ciphers for TLS 1.3"),
    "client_tls_ecdhcurve": unsupported("OpenSSL chooses the curve", _text, ("auto", "")),
    "client_tls_dheparams": unsupported(
        "OpenSSL's own parameters are used, of 2048 bits or more", _text, ("auto", "")
    ),
    # TLS to servers
    "server_tls_sslmode": kept("server_tls.sslmode", _SSLMODE),
    "server_tls_ca_file": kept("server_tls.ca_file"),
    "server_tls_key_file": kept("server_tls.key_file"),
    "server_tls_cert_file": kept("server_tls.cert_file"),
    "server_tls_protocols": _protocols("server_tls"),
    "server_tls_ciphers": _ciphers("server_tls"),
    "server_tls13_ciphers": unsupported("Python's TLS has no choice of ciphers for TLS 1.3"),
    # servers
    "server_reset_query": kept("defaults.server_reset_query", why="in session mode, as there"),
    "server_reset_query_always": unsupported(
        "a client keeps its session's state in every mode: there is nothing to be cleaned away",
        _flag,
        ("false",),
    ),
    "server_check_query": _server_check_query,
    "server_check_delay": kept("timeouts.server_check_delay", _seconds),
    "server_lifetime": _server_lifetime("timeouts"),
    "server_idle_timeout": kept("timeouts.server_idle_timeout", _seconds),
    "server_connect_timeout": kept("timeouts.server_connect_timeout", _seconds),
    "server_login_retry": changed(
        "timeouts.server_login_retry",
        _seconds,
        "the longest pause, approached in steps; clients wait while a failure may pass",
    ),
    "server_fast_close": unsupported(
        "a session keeps its server until it ends; KILL_CLIENT ends it", _flag, ("false",)
    ),
    # how long things may take
    "client_login_timeout": kept("timeouts.client_login_timeout", _seconds),
    "client_idle_timeout": kept("timeouts.client_idle_timeout", _seconds),
    "query_wait_timeout": changed(
        "timeouts.query_wait_timeout",
        _seconds,
        "the query fails with 53300 and the client stays connected",
    ),
    "query_wait_notify": kept("timeouts.query_wait_notify", _count),
    "cancel_wait_timeout": kept("timeouts.cancel_wait_timeout", _seconds),
    "query_timeout": changed(
        "timeouts.query_timeout",
        _seconds,
        "counts running alone, and cancels the query (57014): both connections live on",
    ),
    "idle_transaction_timeout": kept(
        "timeouts.idle_in_transaction_timeout", _seconds, "under PostgreSQL's name"
    ),
    "transaction_timeout": changed(
        "timeouts.transaction_timeout",
        _seconds,
        "a running query is cancelled before anything is closed",
    ),
    "suspend_timeout": unneeded("nothing is suspended for a restart", _seconds),
    "autodb_idle_timeout": changed(
        "databases.*.pool_idle_timeout", _seconds, "is about each pool of such a database"
    ),
    "pool_idle_timeout": changed(
        "timeouts.pool_idle_timeout",
        _seconds,
        "a pool without clients goes after that time, idle server connections and all",
    ),
    # what clients send
    "track_extra_parameters": unneeded("every setting of a session is tracked"),
    "ignore_startup_parameters": unneeded(
        "every startup parameter is taken, and is in force for that client"
    ),
    "disable_pqexec": unsupported(
        "simple queries of several statements can not be forbidden", _flag, ("false",)
    ),
    "application_name_add_host": unsupported(
        "application_name stays what the client says; the log has addresses", _flag, ("false",)
    ),
    # peers
    "peer_id": kept("peers.id", _count, "up to 255"),
    # names of hosts
    "dns_max_ttl": unneeded(_RESOLVER, _seconds),
    "dns_nxdomain_ttl": unneeded(_RESOLVER, _seconds),
    "dns_zone_check_period": unsupported(
        "addresses that change are seen by new server connections; lower server_lifetime",
        _seconds,
        ("0",),
    ),
    "resolv_conf": unsupported("names are looked up as the system is configured to"),
    # buffers and sockets
    "pkt_buf": unneeded(_NO_BUFFER, _count),
    "sbuf_loopcnt": unneeded(_NO_BUFFER, _count),
    "max_packet_size": unsupported(
        "a message may be as long as PostgreSQL takes: it is passed on in pieces",
        _count,
        (str(2**31 - 1),),
    ),
    "tcp_defer_accept": unneeded("one wakeup at each connection is saved or not", _count),
    "tcp_socket_buffer": unsupported("the system sizes socket buffers itself", _count, ("0",)),
    "tcp_keepalive": kept("tcp.keepalive", _flag),
    "tcp_keepcnt": kept("tcp.keepcnt", _count),
    "tcp_keepidle": kept("tcp.keepidle", _count),
    "tcp_keepintvl": kept("tcp.keepintvl", _count),
    "tcp_user_timeout": kept("tcp.user_timeout", _milliseconds, "in seconds here"),
    # logs
    "logfile": unneeded(_LOGS),
    "syslog": unneeded(_LOGS, _flag),
    "syslog_ident": unneeded(_LOGS),
    "syslog_facility": unneeded(_LOGS),
    "log_connections": kept("logging.log_connections", _flag),
    "log_disconnections": kept("logging.log_disconnections", _flag),
    "log_pooler_errors": kept("logging.log_pooler_errors", _flag),
    "log_stats": unneeded("/metrics has what it would log, and more", _flag),
    "stats_period": kept("admin.stats_period", _seconds),
    "verbose": _verbose,
}
"""Of the section [pgbouncer]."""

DATABASE: Final[Mapping[str, Answer]] = {
    "dbname": kept("dbname"),
    "host": kept("host"),
    "port": number("port"),
    "user": kept("user"),
    "password": kept("password", why="written out, in a file that only its owner can read"),
    "auth_user": changed(
        "auth_user", _text, "asks on a pool of its own, and answers are kept for auth.cache_ttl"
    ),
    "auth_query": kept("auth_query"),
    "auth_dbname": kept("auth_dbname"),
    "pool_size": number("pool_size"),
    "min_pool_size": number("min_pool_size"),
    "reserve_pool_size": number("reserve_pool_size"),
    "reserve_pool": number("reserve_pool_size", "under its newer name"),
    "max_db_connections": number("max_server_connections"),
    "max_db_client_connections": number("max_client_connections"),
    "query_wait_timeout": number(
        "query_wait_timeout",
        "the query fails with 53300, the client stays connected",
        Verdict.CHANGED,
    ),
    "server_lifetime": _server_lifetime(""),
    "load_balance_hosts": kept("load_balance_hosts", _BALANCE, "a host that fails is passed over"),
    "target_session_attrs": _target_session_attrs,
    "pool_mode": kept("pool_mode", _POOL_MODE),
    "connect_query": changed(
        "connect_query", _text, "a server connection on which it fails is not used"
    ),
    "client_encoding": kept("settings.client_encoding"),
    "datestyle": kept("settings.datestyle"),
    "timezone": kept("settings.timezone"),
    "application_name": kept("settings.application_name"),
}
"""Of a connection string in [databases], below its database."""

USER: Final[Mapping[str, Answer]] = {
    "pool_mode": kept("pool_mode", _POOL_MODE),
    "pool_size": number("pool_size"),
    "reserve_pool_size": number("reserve_pool_size"),
    "max_user_connections": number("max_server_connections"),
    "max_user_client_connections": number("max_client_connections"),
    "query_timeout": number(
        "query_timeout", "of the client's user; cancels the query, closes nothing", Verdict.CHANGED
    ),
    "query_wait_timeout": number(
        "query_wait_timeout",
        "the query fails with 53300, the client stays connected",
        Verdict.CHANGED,
    ),
    "idle_transaction_timeout": number(
        "idle_in_transaction_timeout", "of the client's user, not the server's", Verdict.CHANGED
    ),
    "transaction_timeout": number(
        "transaction_timeout", "of the client's user, not the server's", Verdict.CHANGED
    ),
    "client_idle_timeout": number("client_idle_timeout", "for this user alone"),
}
"""Of a line in [users], below its user."""

PEER: Final[Mapping[str, Answer]] = {
    "host": lambda text: Outcome(Verdict.KEPT, "in peers.members"),
    "port": lambda text: Outcome(Verdict.KEPT, "in peers.members"),
    "pool_size": unneeded("each cancel request is sent on over a connection of its own"),
}
"""Of a connection string in [peers]."""

DEFAULTS: Final[Mapping[str, str]] = {
    "pool_mode": "session",
    "max_client_conn": "100",
    "auth_type": "md5",
    "listen_addr": "",
    "unix_socket_dir": "/tmp",
    "client_tls_sslmode": "disable",
}
"""Defaults of PgBouncer that are not ours: they are carried over as if they had been written."""

OUR_DEFAULTS: Final[Mapping[str, str]] = {
    "server_login_retry": "0.5 s here, so that a database's return is noticed within a second",
    "query_wait_timeout": "120 s as there; the query fails with 53300, the client stays connected",
}
"""Where our default is left in place and differs: why."""


def unknown(key: str) -> Wrong:
    """Why a line in [pgbouncer] is wrong."""
    return Wrong("is not a setting of PgBouncer", did_you_mean(key, SETTINGS))


def unknown_key(key: str, known: Mapping[str, Answer]) -> Wrong:
    """Why a key of a connection string is wrong. It may be what follows a blank in a password: it
    is shown only where it looks much like a key."""
    close = difflib.get_close_matches(key, list(known), 1, _MUCH)
    if close:
        return Wrong(f"'{key}' is not a setting of PgBouncer", f"did you mean {close[0]}?")
    return Wrong("a word of the connection string is not a setting of PgBouncer")
