"""LISTEN for many clients on one server connection of their pool.

A client's LISTEN runs on the server it has, in its transaction, as it always did; the server is
pinned by it (see `keeper`). Then the pool's ear, a session-mode client of our own, listens to the
same channels. When PostgreSQL has acknowledged that, the first server stops listening and is free.
For a moment both listen: what the client got from its server is not given to it a second time.

The ear hears in PostgreSQL's order and passes on in that order, to a client only between its
transactions, as a server would. When its connection is lost, all who listen are warned that
something may have been missed, and a new ear listens.
"""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from pooler.core import session
from pooler.core.client import Client
from pooler.core.errors import CloseReason
from pooler.core.following import Following
from pooler.core.inner import Inner
from pooler.core.settings import PoolMode, SessionSettings
from pooler.core.states import ClientState
from pooler.wire import build, codes, parse

if TYPE_CHECKING:
    from pooler.core.pool import Pool
    from pooler.core.server import Server

RETRY: Final = 0.5
"""Seconds before a lost ear is replaced."""

LINGER: Final = 5.0
"""Seconds for which the ear is kept when there is nothing to listen to, and nobody waits for its
server."""

_LOST: Final = build.warning(
    codes.CONNECTION_FAILURE,
    "the connection that listens for notifications was lost",
    hint="Notifications may have been missed. It is being restored.",
)

_EAR: Final = SessionSettings(pool_mode=PoolMode.SESSION)


class Broadcast:
    """Who listens to what in one pool."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._listeners: dict[str, dict[Client, None]] = {}  # by channel
        self._heard: frozenset[str] = frozenset()  # channels that the ear listens to
        self._foreign: frozenset[str] = frozenset()  # that clients of other processes want to hear
        self.following: Following | None = None  # clients come from another process, or go there
        self._ear: Ear | None = None
        self._retry_at = 0.0
        self._unused_since = 0.0

    @property
    def possible(self) -> bool:
        """False where the ear would take the pool's only server."""
        return self._pool.settings.pool_size > 1

    @property
    def channels(self) -> int:
        """Return how many channels somebody listens to."""
        return len(self._listeners)

    def adopt(self, client: Client, server: "Server") -> bool:
        """Have an ear that waits for a server take this one, which listens already.

        Else clients that each hold a server until the ear listens could keep it from ever getting
        one. False: the ear has a server, or can have another.
        """
        if self._due:
            self._hire(server.channels)
        waiting = self._ear.waiting if self._ear is not None else None
        if waiting is None:
            return False
        self._register(client, server.channels)
        server.pins = server.touched = 0
        self._pool.waiting.remove(waiting)
        self._pool.link(server, waiting, self._pool.now())
        return True

    def _register(self, client: Client, channels: frozenset[str]) -> None:
        client.listening |= channels
        for channel in channels:
            self._listeners.setdefault(channel, {})[client] = None

    def listen(self, client: Client, channels: frozenset[str]) -> None:
        """Have the ear listen to these too; the client's server is asked again once it does."""
        self._register(client, channels)
        if channels <= self._heard:
            self._pool.keeper.recheck(client)
        else:
            self.attend()

    def await_ear(self, client: Client, channels: frozenset[str]) -> None:
        """Have a client listen once there is an ear again, and on no server until then."""
        self._register(client, channels)
        client.notes.notify(_LOST)

    def hears(self, channels: frozenset[str]) -> bool:
        """Return whether the ear listens to all of these."""
        return channels <= self._heard

    def unlisten(self, client: Client, channels: frozenset[str] | None = None) -> None:
        """Have the client hear no more of these channels; None: of any."""
        gone = client.listening if channels is None else client.listening & channels
        client.listening -= gone
        for channel in gone:
            listeners = self._listeners[channel]
            del listeners[client]
            if not listeners:
                del self._listeners[channel]
        if gone:
            self.attend()

    def resume(self, client: Client, channels: frozenset[str], heard: Mapping[str, int]) -> None:
        """Serve a client that listened where it was, and was told so much of each channel."""
        self._register(client, channels)
        if self.following is not None:
            self.following.resume(client, heard)
        self.attend()

    def say(self, channel: str, payload: str) -> None:
        """Have the ear notify a channel."""
        if isinstance(self._ear, _Ear):
            self._ear.say(channel, payload)

    def renew(self) -> None:
        """Have another ear listen, on another server."""
        if isinstance(self._ear, _Ear):  # a far one is renewed where it is
            self._ear.renew()

    def pause(self, paused: bool) -> None:
        """Listen on no server for now; or listen again."""
        if paused:
            self.renew()
        else:
            self._retry_at = self._pool.edge.now()
            self.attend()

    @property
    def _due(self) -> bool:
        """True when there should be an ear, if anybody listens."""
        pool = self._pool
        return self._ear is None and not pool.paused and pool.edge.now() >= self._retry_at

    def tick(self, now: float) -> None:
        """Replace a lost ear, in its time; let one go that nobody needs."""
        if self._listeners or self._foreign or self.following is not None:
            self._unused_since = now
            if self._due:
                self.attend()
        elif self._ear is not None and (
            now - self._unused_since >= LINGER or self._pool.someone_waits()
        ):
            self._ear.leave()

    def attend(self) -> None:
        """Bring what the ear listens to in line with what somebody wants to hear."""
        wanted = self._foreign.union(self._listeners)
        if self.following is not None:
            wanted |= self.following.channels
        self._heard &= wanted  # what the ear is told not to listen to may be wanted again too late
        if self._ear is not None:
            self._ear.attend(wanted)
        elif wanted and self._due:
            self._hire(wanted)

    def _hire(self, channels: frozenset[str]) -> None:
        """Get an ear: one of our own, unless several processes share one."""
        ear = self._pool.edge.ear(self._pool)
        self._ear = ear or _Ear(self)
        self._ear.attend(channels)
        self._ear.enter(self._pool)

    # -- where several processes have one ear

    def host(self) -> None:
        """Have the ear that all of them share."""
        if isinstance(self._ear, _Ear):
            return
        self._ear = _Ear(self)
        self._ear.attend(self._foreign.union(self._listeners))
        self._ear.enter(self._pool)
        if self._ear.waiting:  # perhaps for a server that another client holds until it listens
            for client in {c for listeners in self._listeners.values() for c in listeners}:
                self._pool.keeper.recheck(client)

    def listen_for_others(self, channels: frozenset[str]) -> None:
        """Listen to what clients of other processes want to hear, too."""
        self._foreign = channels
        self.attend()
        if channels:
            self._pool.edge.attending(self._pool, self._heard)

    # -- for the ear

    def attending(self, channels: frozenset[str]) -> None:
        """The ear has listened to these channels, and to no others, from now on."""
        new = channels - self._heard
        self._heard = channels
        self.attend()
        if self._foreign:
            self._pool.edge.attending(self._pool, self._heard)
        if self.following is not None:
            self.following.attending(channels)
        for client in {c for channel in new for c in self._listeners.get(channel, ())}:
            self._pool.keeper.recheck(client)

    def heard(self, body: bytes) -> None:
        """Pass a NotificationResponse's body on to all who listen."""
        end = body.find(b"\0", 4)
        channel = parse.text(body[4:end])
        if channel in self._foreign:
            self._pool.edge.heard(self._pool, channel, body)
        listeners = self._listeners.get(channel, {})
        following = self.following
        if not listeners and following is None:
            return
        sender = self._pool.sender(int.from_bytes(body[:4], "big"))
        message = build.message(codes.NOTIFICATION_RESPONSE, sender.to_bytes(4, "big") + body[4:])
        if following is not None:
            following.heard(channel, message, body[end + 1 : -1])
        for client in list(listeners):
            if following is None or not following.was_told(client, channel):
                client.notes.notify(message, channel)

    def lost(self) -> None:
        """The ear's connection is gone: say so, and try again soon."""
        self._ear = None
        self._heard = frozenset()
        if self.following is not None:
            self.following.lost()
        self._foreign = frozenset()
        self._pool.edge.deaf(self._pool)
        self._retry_at = self._pool.edge.now() + RETRY
        for client in {c for listeners in self._listeners.values() for c in listeners}:
            client.notes.notify(_LOST)


class Ear(Protocol):
    """Who listens for the clients."""

    @property
    def waiting(self) -> Client | None:
        """Its client, while it waits in line for a server."""

    def enter(self, pool: "Pool") -> None:
        """Begin."""

    def attend(self, channels: frozenset[str]) -> None:
        """Listen to these channels, and to no others."""

    def leave(self) -> None:
        """Listen no more."""


class _Ear(Inner):
    """The client that listens."""

    def __init__(self, broadcast: Broadcast) -> None:
        super().__init__()
        self._broadcast = broadcast
        self._wanted: frozenset[str] = frozenset()
        self._asked: deque[frozenset[str]] = deque()  # sets of channels, acknowledgement awaited
        self._has: frozenset[str] = frozenset()
        self._greeted = False

    @property
    def waiting(self) -> Client | None:
        """Return the ear's client while it waits in line for a server."""
        client = self._client
        if client is None or client.state is not ClientState.WAITING or client.server is not None:
            return None
        return client

    def enter(self, pool: "Pool") -> None:
        """Join the pool."""
        self.join(pool, "listen", _EAR)
        self.attend(self._wanted)

    def attend(self, channels: frozenset[str]) -> None:
        """Listen to these channels, and to no others."""
        self._wanted = channels
        client = self._client
        if client is None or self._asked or channels == self._has:
            return
        sql = [f"LISTEN {session.identifier(name)}" for name in sorted(channels - self._has)]
        sql += [f"UNLISTEN {session.identifier(name)}" for name in sorted(self._has - channels)]
        self._asked.append(channels)
        client.data_received(build.query(";".join(sql)))

    def say(self, channel: str, payload: str) -> None:
        """Notify a channel."""
        client = self._client
        if client is not None:
            self._asked.append(self._asked[-1] if self._asked else self._has)
            sql = f"NOTIFY {session.identifier(channel)}, {session.literal(payload)}"
            client.data_received(build.query(sql))

    def leave(self) -> None:
        """Give the server up, between two commands."""
        client = self._client
        if client is not None and self._greeted and not self._asked:
            client.close(CloseReason.TERMINATED)

    def renew(self) -> None:
        """Give the server up at once."""
        if self._client is not None:
            self._client.close(CloseReason.RENEWED)

    def take(self, kind: int, body: bytes) -> None:
        """Read what the server says."""
        if kind == codes.NOTIFICATION_RESPONSE:
            self._broadcast.heard(body)
        elif kind == codes.ERROR_RESPONSE:
            self._asked.clear()
            if self._client is not None:
                self._client.close(CloseReason.TERMINATED)
        elif kind == codes.READY_FOR_QUERY and not self._greeted:
            self._greeted = True  # what was asked meanwhile comes now
        elif kind == codes.READY_FOR_QUERY and self._asked:
            self._has = self._asked.popleft()
            self._broadcast.attending(self._has)

    def ended(self) -> None:
        """The server is gone, or would not listen."""
        self._client = None
        self._broadcast.lost()
