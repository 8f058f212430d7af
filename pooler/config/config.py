"""The configuration as the service uses it: the settings, and what a login resolves to.

Rules: made by `load` only, never changed. A client's (database, user) resolves to a Route with
user > database > defaults. Settings of the session are those of the client's user, settings of the
pool those of the server's user, since clients of several users may share the pool.
"""

from collections import Counter
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import ConfigDict, Field, InstanceOf, SecretStr

from pooler.config.certificates import Certificates
from pooler.config.hba import Rules
from pooler.config.ident import Maps
from pooler.config.model import AuthType, Database, SessionState, Settings, User
from pooler.config.units import is_verifier
from pooler.core import settings as core
from pooler.core.policy import Policies
from pooler.core.settings import Measures, PoolSettings, Route, SessionSettings, Target, TargetTls
from pooler.wire.logins import Encryption, Method
from pooler.wire.passwords import Kind, kind_of

T = TypeVar("T")

FALLBACK = "*"
"""The database for every name that is not configured."""

CONSOLE = frozenset(("pgbouncer", "pooler"))
"""The databases that are the console, and the users that the one who runs the pooler is there."""

_METHODS: Final[dict[AuthType, Method]] = {
    AuthType.TRUST: "trust",
    AuthType.PASSWORD: "password",
    AuthType.MD5: "md5",
    AuthType.SCRAM: "scram-sha-256",
}

_NOBODY = User()

_LOOKUP_TIMEOUT = 10.0
"""Seconds that asking for a user's secret may take, waiting for a connection included."""


class Lookup(NamedTuple):
    """Where users who are not configured are asked for, by whom and how."""

    database: str
    """By the name clients use."""
    user: str
    query: str


class Config(Settings):
    """Settings, where they came from, and the secrets of auth.file."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    source: str | None = None
    """The configuration file."""
    notes: tuple[str, ...] = ()
    """What of it can not be had here, if it is in another form than ours."""
    files: tuple[str, ...] = ()
    """Every file that was read: a change of any of them is a reason to load again."""
    seen: tuple[Any, ...] = ()
    """How they looked before they were read; see `pooler.watch`."""
    stored: dict[str, SecretStr] = Field(default={})
    """Secrets of auth.file by user."""
    rules: InstanceOf[Rules] = Field(default=Rules(), exclude=True)
    """Those of auth.hba_file or auth.hba."""
    maps: InstanceOf[Maps] = Field(default=Maps(), exclude=True)
    """Those of auth.ident_file or auth.ident."""
    certificates: Certificates = Field(default=Certificates(), exclude=True, repr=False)
    """What the files of tls and server_tls held."""

    def secret(self, user: str) -> str | None:
        """What a client that logs in as `user` must prove to know; None: no such secret.

        A password, or what PostgreSQL stores of it (md5... or SCRAM-SHA-256$...).
        """
        return self._secrets.get(user)

    @cached_property
    def _secrets(self) -> dict[str, str]:
        own = {
            name: user.password for name, user in self.users.items() if user.password is not None
        }
        return {name: secret.get_secret_value() for name, secret in {**self.stored, **own}.items()}

    @cached_property
    def kinds(self) -> Counter[Kind]:
        """How many users there are with each kind of secret."""
        return Counter(kind_of(secret) for secret in self._secrets.values() if secret)

    @cached_property
    def method(self) -> Method | None:
        """How everybody must prove who they are; None: rules say it."""
        return _METHODS.get(self.auth.type)

    @cached_property
    def encryption(self) -> Encryption:
        """What clients may have and must have."""
        mode = self.tls.sslmode
        return Encryption(self.certificates.clients is not None, mode.required, mode.verifies)

    def lookup(self, database: str) -> Lookup | None:
        """How to learn of an unknown user of `database`; None: nobody is to be asked."""
        if database in CONSOLE:  # no server has it
            user, where = self.auth.user, self.auth.dbname
            return Lookup(where, user, self.auth.query) if user and where else None
        entry = self.databases.get(database) or self.databases.get(FALLBACK)
        auth = self.auth
        if entry is None:
            return None
        user = _first(entry.auth_user, auth.user)
        where = _first(entry.auth_dbname, auth.dbname) or database
        return Lookup(where, user, _first(entry.auth_query, auth.query)) if user else None

    def auth_route(self, database: str, user: str) -> Route | None:
        """Where lookups go: to `database`, logged in as `user`; None: no such database.

        Without connect_query and settings, which are meant for clients.
        """
        entry = self.databases.get(database) or self.databases.get(FALLBACK)
        if entry is None:
            return None
        own = self.secret(user)
        if own is None and entry.user in ("", user) and entry.password is not None:
            own = entry.password.get_secret_value()
        target = self._target(entry, database, user)
        timeout = _LOOKUP_TIMEOUT
        return Route(
            database=database,
            user=user,
            target=replace(target, user=user, password=own, connect_query="", startup=()),
            pool=replace(
                self._pool(entry, _NOBODY),
                pool_size=self.auth.query_pool_size,
                min_pool_size=0,
                reserve_pool_size=0,
            ),
            session=SessionSettings(
                client_login_timeout=timeout, query_wait_timeout=timeout, query_timeout=timeout
            ),
        )

    def resolve(self, database: str, user: str) -> Route | None:
        """Where a client that asks for (database, user) goes; None: no such database."""
        entry = self.databases.get(database) or self.databases.get(FALLBACK)
        if entry is None:
            return None
        target = self._target(entry, database, user)
        return Route(
            database=database,
            user=user,
            target=target,
            pool=self._pool(entry, self.users.get(target.user, _NOBODY)),
            session=self._session(entry, self.users.get(user, _NOBODY)),
        )

    def _target(self, entry: Database, database: str, client_user: str) -> Target:
        user = entry.user or client_user
        if entry.password is not None:
            password: str | None = entry.password.get_secret_value()
        else:
            stored = self.secret(user)
            password = None if stored is None or is_verifier(stored) else stored
        balance = _first(entry.load_balance_hosts, self.defaults.load_balance_hosts)
        return Target(
            hosts=entry.hosts,
            dbname=entry.dbname or database,
            user=user,
            password=password,
            load_balance_hosts=balance == "round-robin",
            connect_query=entry.connect_query,
            startup=tuple(sorted(entry.settings.items())),
            tls=self._target_tls(database),
            max_protocol_version=entry.max_protocol_version,
        )

    def _target_tls(self, database: str) -> TargetTls:
        targets = self.certificates.targets
        return targets.get(database) or targets.get(FALLBACK) or TargetTls()

    def _pool(self, db: Database, user: User) -> PoolSettings:
        defaults, timeouts, limits = self.defaults, self.timeouts, self.limits
        size = _first(user.pool_size, db.pool_size, defaults.pool_size)
        return PoolSettings(
            pool_size=size,
            # A user's pool_size may be below the minimum of a database that is meant for others.
            min_pool_size=min(size, _first(db.min_pool_size, defaults.min_pool_size)),
            reserve_pool_size=_first(
                user.reserve_pool_size, db.reserve_pool_size, defaults.reserve_pool_size
            ),
            reserve_pool_timeout=_first(db.reserve_pool_timeout, timeouts.reserve_pool_timeout),
            max_prepared_statements=_first(
                db.max_prepared_statements, defaults.max_prepared_statements
            ),
            max_prepared_bytes=_first(db.max_prepared_bytes, defaults.max_prepared_bytes),
            cache_unnamed=_first(db.statement_cache, defaults.statement_cache) == "unnamed",
            server_round_robin=_first(db.server_round_robin, defaults.server_round_robin),
            server_idle_timeout=_first(db.server_idle_timeout, timeouts.server_idle_timeout),
            server_lifetime=_first(db.server_lifetime, timeouts.server_lifetime),
            server_connect_timeout=_first(
                db.server_connect_timeout, timeouts.server_connect_timeout
            ),
            server_login_retry=_first(db.server_login_retry, timeouts.server_login_retry),
            server_check_delay=_first(db.server_check_delay, timeouts.server_check_delay),
            server_check_query=_first(db.server_check_query, defaults.server_check_query),
            server_reset_query=_first(db.server_reset_query, defaults.server_reset_query),
            pool_idle_timeout=_first(db.pool_idle_timeout, timeouts.pool_idle_timeout),
            cancel_wait_timeout=_first(db.cancel_wait_timeout, timeouts.cancel_wait_timeout),
            max_db_server_connections=_first(
                db.max_server_connections, limits.max_db_server_connections
            ),
            max_user_server_connections=_first(
                user.max_server_connections, limits.max_user_server_connections
            ),
            session_state=self._state(db),
            migrations=self._migrations(db),
            measures=self._measures(),
        )

    def _measures(self) -> Measures | None:
        queries = self.queries
        samples = {"off": 0, "sampled": queries.statistics_sample, "on": 1}
        measures = Measures(
            sample=samples[queries.statistics],
            statements=queries.statistics_limit,
            slow_query=queries.slow_query_time,
            traces=self.traces.sample if self.traces.endpoint else 0,
        )
        return measures if measures.sample or measures.all else None

    def _state(self, db: Database) -> Policies:
        own, above = db.session_state, self.session_state
        return Policies(
            **{
                name: _first(getattr(own, name), getattr(above, name))
                for name in SessionState.model_fields
            }
        )

    def _migrations(self, db: Database) -> core.Migrations:
        own, above = db.migrations, self.migrations
        return core.Migrations(
            enabled=_first(own.enabled, above.enabled),
            lock_timeout=_first(own.lock_timeout, above.lock_timeout),
            max_concurrent=_first(own.max_concurrent, above.max_concurrent),
        )

    def _session(self, db: Database, user: User) -> SessionSettings:
        timeouts, limits = self.timeouts, self.limits
        return SessionSettings(
            pool_mode=_first(user.pool_mode, db.pool_mode, self.defaults.pool_mode),
            client_login_timeout=_first(
                user.client_login_timeout, db.client_login_timeout, timeouts.client_login_timeout
            ),
            client_idle_timeout=_first(
                user.client_idle_timeout, db.client_idle_timeout, timeouts.client_idle_timeout
            ),
            query_wait_timeout=_first(
                user.query_wait_timeout, db.query_wait_timeout, timeouts.query_wait_timeout
            ),
            query_wait_notify=_first(
                user.query_wait_notify, db.query_wait_notify, timeouts.query_wait_notify
            ),
            query_timeout=_first(user.query_timeout, db.query_timeout, timeouts.query_timeout),
            transaction_timeout=_first(
                user.transaction_timeout, db.transaction_timeout, timeouts.transaction_timeout
            ),
            idle_in_transaction_timeout=_first(
                user.idle_in_transaction_timeout,
                db.idle_in_transaction_timeout,
                timeouts.idle_in_transaction_timeout,
            ),
            pin_timeout=_first(user.pin_timeout, db.pin_timeout, timeouts.pin_timeout),
            max_db_client_connections=_first(
                db.max_client_connections, limits.max_db_client_connections
            ),
            max_user_client_connections=_first(
                user.max_client_connections, limits.max_user_client_connections
            ),
        )


def _first(*values: T | None) -> T:
    """The first that is set; the last always is."""
    return next(value for value in values if value is not None)
