"""Settings by the names that operators use: ours, dotted, and PgBouncer's for those it has, too.

`SHOW CONFIG` lists both; `SET` takes both.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from pooler.admin.view import Column, Fold, Merge, Row, Type, View, text
from pooler.config import Settings
from pooler.config.diff import written

if TYPE_CHECKING:
    from pooler.service import Service

Path = tuple[str, ...]

_SAME: Final = {
    "listen": ("unix_socket_dir", "unix_socket_mode", "unix_socket_group"),
    "defaults": (
        *("pool_mode", "min_pool_size", "reserve_pool_size", "server_round_robin"),
        *("server_reset_query", "server_check_query", "max_prepared_statements"),
    ),
    "limits": ("max_db_client_connections", "max_user_client_connections"),
    "timeouts": (
        *("reserve_pool_timeout", "server_check_delay", "server_lifetime", "server_idle_timeout"),
        *("server_connect_timeout", "server_login_retry", "client_login_timeout"),
        *("client_idle_timeout", "query_wait_timeout", "query_wait_notify", "query_timeout"),
        *("cancel_wait_timeout", "transaction_timeout", "pool_idle_timeout"),
    ),
    "logging": ("log_connections", "log_disconnections", "log_pooler_errors"),
}
"""Settings that have PgBouncer's name and meaning, by section."""
_OTHER: Final[dict[str, Path]] = {
    "listen_addr": ("listen", "host"),
    "listen_port": ("listen", "port"),
    "listen_backlog": ("listen", "backlog"),
    "so_reuseport": ("listen", "reuse_port"),
    "default_pool_size": ("defaults", "pool_size"),
    "max_client_conn": ("limits", "max_client_connections"),
    "max_db_connections": ("limits", "max_db_server_connections"),
    "max_user_connections": ("limits", "max_user_server_connections"),
    "idle_transaction_timeout": ("timeouts", "idle_in_transaction_timeout"),
    "tcp_keepalive": ("tcp", "keepalive"),
    "tcp_keepcnt": ("tcp", "keepcnt"),
    "tcp_keepidle": ("tcp", "keepidle"),
    "tcp_keepintvl": ("tcp", "keepintvl"),
    "auth_hba_file": ("auth", "hba_file"),
    "auth_ident_file": ("auth", "ident_file"),
    **{f"auth_{name}": ("auth", name) for name in ("type", "file", "user", "query", "dbname")},
    **{
        f"{side}_tls_{name}": (section, name)
        for side, section in (("client", "tls"), ("server", "server_tls"))
        for name in ("sslmode", "ca_file", "cert_file", "key_file", "ciphers")
    },
    "admin_users": ("admin", "users"),
    "stats_users": ("admin", "stats_users"),
    "stats_period": ("admin", "stats_period"),
}
PGBOUNCER: Final[dict[str, Path]] = dict(
    sorted({**{n: (s, n) for s, names in _SAME.items() for n in names}, **_OTHER}.items())
)
"""PgBouncer's settings for which there is one of ours of the same meaning and unit."""

UNCHANGEABLE: Final[frozenset[Path]] = frozenset({("workers",)})
"""Settings that only a restart changes."""

_TREES: Final = ("databases", "users")


def value_at(settings: BaseModel, path: Path) -> object:
    """Return the setting at a path."""
    value: object = settings
    for name in path:
        value = getattr(value, name)
    return value


def paths() -> Iterator[Path]:
    """All settings that are not of a single database or user, in the order of the model."""
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        if section in _TREES:
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name in kind.model_fields:
                yield (section, name)
        else:
            yield (section,)


def _shown(path: Path, value: object) -> str:
    if path == ("listen", "unix_socket_mode") and isinstance(value, int):
        return f"{value:04o}"
    if isinstance(value, tuple) and any(isinstance(part, BaseModel) for part in value):
        return f"({len(value)} lines)"
    if isinstance(value, dict):
        return f"({len(value)} entries)"
    return (written(value) or "").strip('"')


def _as_pgbouncer(path: Path, value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else _shown(path, value)


def _config(service: "Service") -> Iterator[Row]:
    config, defaults = service.config, Settings()
    for name, path in PGBOUNCER.items():
        value, default = value_at(config, path), value_at(defaults, path)
        yield (
            name,
            _as_pgbouncer(path, value),
            _as_pgbouncer(path, default),
            _changeable(path),
        )
    for path in paths():
        value, default = value_at(config, path), value_at(defaults, path)
        yield ".".join(path), _shown(path, value), _shown(path, default), _changeable(path)


def _changeable(path: Path) -> str:
    return "no" if path in UNCHANGEABLE else "yes"


def _reload(service: "Service") -> Iterator[Row]:
    for change in service.last_changes:
        yield change.path, change.old, change.new


CONFIG: Final = View(
    "config",
    "every setting: its value, its default, whether it can be changed without a restart",
    text("key", "value", "default", "changeable"),
    _config,
    Merge.FIRST,
)
RELOAD: Final = View(
    "reload",
    "what the last reload changed",
    (Column("setting", Type.TEXT, Fold.KEY), *text("before", "now")),
    _reload,
    Merge.FIRST,
)
