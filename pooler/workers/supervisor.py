"""The supervisor: starts the workers, restarts one that ends, and keeps them one pooler.

It serves no client and opens no server connection. It binds the listening sockets, one for each
worker with SO_REUSEPORT, and keeps them: while a worker is restarted, its connections wait. It
holds the budget, counts clients, passes cancels on, and has all workers go by a new configuration
or none.
"""

import asyncio
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import pooler
from pooler import logs
from pooler.channel import CALL_TIMEOUT, Channel, ChannelLost
from pooler.config import Change, Config, ConfigError, changes
from pooler.core.budget import NO_LIMITS, Budget, Limits, PoolName, Report
from pooler.core.errors import PoolerError
from pooler.core.routes import AUTH
from pooler.core.settings import Route
from pooler.listener import Address, bind, unlink, wanted
from pooler.metrics.process import SUPERVISOR, usage
from pooler.notify import notify
from pooler.reload import Load, Overlay, Reloader, ReloadRefused, problems_of
from pooler.service import ROUTES
from pooler.shutdown import End, Stop
from pooler.sockets import socket_address, tcp_sockets
from pooler.watch import watch
from pooler.wire import codes
from pooler.workers.ears import Ears
from pooler.workers.worker import Addresses, Pairs

TICK: Final = 0.1
"""Seconds between looks at who waits."""

START_TIMEOUT: Final = 120.0
"""Seconds that a worker has to become ready."""

RELOAD_TIMEOUT: Final = 30.0
"""Seconds that the workers have to read a configuration."""

RESTARTS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a worker is started again that has ended soon, and so for the next times."""
SOON: Final = 30.0
"""Seconds within which a worker has ended soon."""

GRACE: Final = 1.0
"""Seconds that PostgreSQL has to notice that the connections of a dead worker are gone."""

LAST_WORDS: Final = 10.0
"""Seconds above `shutdown_timeout` that the workers have to leave before they are killed."""


_ALL: Final = ""


class Process:
    """A worker, seen from here."""

    def __init__(
        self, number: int, serial: int, process: asyncio.subprocess.Process, channel: Channel
    ) -> None:
        self.number = number
        self.serial = serial  # that no other process had: what it had is not its successor's
        self.process = process
        self.channel = channel
        self.started_at = time.monotonic()
        self.ready = asyncio.Event()
        self.clients: Counter[tuple[str, str]] = Counter()  # (database, user)

    def __repr__(self) -> str:
        """Show number and process."""
        return f"<worker {self.number} pid {self.process.pid}>"


class Supervisor:
    """The process that `workers` above 1 starts."""

    def __init__(self, load: Load, config: Config, command: Sequence[str]) -> None:
        """`command` starts a worker: its arguments are followed by its number and a file."""
        self._load = load
        self._command = command
        self.config = config
        self._resolve = lru_cache(ROUTES)(config.resolve)
        self.count = self.config.workers
        self._budget = Budget(self._limits, partial(self._tell_allotment, "allot"))
        self._lanes = Budget(self._lane_limits, partial(self._tell_allotment, "places"))
        self._serial = 0
        self._ears = Ears(self._tell)
        self._workers: dict[int, Process] = {}
        self._sockets: dict[Address, list[list[socket.socket]]] = {}  # for each worker
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._failures = [0] * self.count  # ends in a row that came soon
        self._clients: Counter[tuple[str, str]] = Counter()  # by what limits count
        self._overlay: Overlay = {}
        self._reloader = Reloader(self._reload, lambda: self._overlay, lambda: False)
        self._end = End()

    # -- life

    async def run(self) -> int:
        """Serve until told to stop; return the exit status. OSError: an address cannot be had."""
        loop = asyncio.get_running_loop()
        config = self.config
        logs.set_up(config.logging.format, config.logging.level, config.logging.repeat_limit)
        logs.event(
            logging.INFO,
            "starting",
            version=pooler.__version__,
            build=pooler.build_kind(),
            config=config.source,
            workers=self.count,
        )
        self._sockets = self._bind(config)
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self.stop)
        loop.add_signal_handler(signal.SIGQUIT, self.stop, Stop.NOW)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        loop.add_signal_handler(signal.SIGUSR2, _cannot_be_replaced)
        tasks: list[asyncio.Task[None]] = []
        status = 1
        try:
            await asyncio.gather(*(self._start(number) for number in range(self.count)))
            for number in range(self.count):
                self._keepers[number] = loop.create_task(self._keep(number))
            files = watch(
                lambda: self.config.files, lambda: self.config.seen, self._reloader.changed
            )
            duties = (self._tick(), self._reloader.serve(), files)
            tasks = [loop.create_task(duty) for duty in duties]
            self._report_addresses()
            logs.event(logging.INFO, "ready")
            notify("READY=1")
            await self._end.changed.wait()
            status = 0
        except StartFailed as failed:
            logs.event(logging.ERROR, "worker did not start", worker=failed.number)
        finally:
            await self._stop()
            for task in tasks:
                task.cancel()
            for groups in self._sockets.values():
                _close(groups)
            logs.event(logging.INFO, "stopped")
        return status

    def stop(self, how: Stop = Stop.SERVERS, timeout: float | None = None) -> None:
        """Have all workers end, as `Service.stop` says, and then this process."""
        self._end.want(how, timeout)

    async def _stop(self) -> None:
        """Have every worker drain and leave, and kill who does not."""
        for keeper in self._keepers.values():
            keeper.cancel()
        notify("STOPPING=1")
        workers = list(self._workers.values())
        ended = asyncio.create_task(_all(worker.process.wait() for worker in workers))
        end = self._end
        while not ended.done():
            end.changed.clear()
            logs.event(logging.INFO, "stopping", how=end.how.value or "NOW")
            for worker in workers:
                worker.channel.tell("stop", end.how.name, end.timeout)
            changed = asyncio.create_task(end.changed.wait())
            await asyncio.wait(
                {changed, ended}, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED
            )
            if not (ended.done() or changed.done()):
                for worker in workers:
                    if worker.process.returncode is None:
                        worker.process.kill()
            changed.cancel()
        for worker in workers:
            worker.channel.close()

    def _patience(self) -> float | None:
        """Return the seconds that workers have to leave, None if there is no limit."""
        end, timeouts = self._end, self.config.timeouts
        limit = end.patience(timeouts.shutdown_timeout)
        if end.how is Stop.CLIENTS:
            limit = None if limit is None or end.timeout is None else limit + end.timeout
        return None if limit is None else limit + timeouts.shutdown_delay + LAST_WORDS

    # -- workers

    async def _start(self, number: int) -> None:
        """Start a worker and wait until it serves; StartFailed."""
        near, far = socket.socketpair()
        with far:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                f"{number}/{self.count}",
                str(far.fileno()),
                pass_fds=[far.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
            )
        self._serial += 1
        channel = self._channel(number, self._serial, near)
        worker = self._workers[number] = Process(number, self._serial, process, channel)
        for holds in (await self._call_all("holds", but=number))[:1]:
            worker.channel.tell("hold", *holds)
        addresses, files = self._listening(number, self._sockets)
        worker.channel.tell("listen", self._pairs(), addresses, files=files)
        ended = asyncio.create_task(process.wait())
        ready = asyncio.create_task(worker.ready.wait())
        await asyncio.wait(
            {ended, ready}, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        ready.cancel()
        if not worker.ready.is_set():
            if process.returncode is None:
                process.kill()
            await ended
            self._ended(worker)
            raise StartFailed(number)
        ended.cancel()

    def _channel(self, number: int, serial: int, sock: socket.socket) -> Channel:
        return Channel(
            sock,
            {
                "ready": lambda pid: self._workers[number].ready.set(),
                "report": lambda news: _report(self._budget, serial, news),
                "report_lanes": lambda news: _report(self._lanes, serial, news),
                "admit": lambda database, user: self._admit(number, database, user),
                "gone": lambda database, user: self._gone(number, database, user),
                "tell_others": partial(self._tell_others, number),
                "others": lambda within, name, *arguments: self._call_all(
                    name, *arguments, but=number, within=within
                ),
                "usage": partial(usage, SUPERVISOR),
                "at": self._at,
                "reload": self._reload_for,
                "stop": lambda how, timeout: self.stop(Stop[how], timeout),
                **self._ears.handlers(number),
            },
            lambda: None,  # its process has ended, or is about to: `_keep` sees to it
        )

    async def _keep(self, number: int) -> None:
        """Start a worker again whenever it has ended."""
        while True:
            worker = self._workers.get(number)
            if worker is not None:
                status = await worker.process.wait()
                self._ended(worker)
                lived = time.monotonic() - worker.started_at
                self._failures[number] = self._failures[number] + 1 if lived < SOON else 0
                logs.event(
                    logging.ERROR,
                    "worker ended",
                    worker=number,
                    pid=worker.process.pid,
                    status=status,
                    seconds=round(lived, 3),
                )
            await asyncio.sleep(RESTARTS[min(self._failures[number], len(RESTARTS) - 1)])
            try:
                await self._start(number)
            except (StartFailed, OSError) as error:
                self._failures[number] += 1
                logs.event(logging.ERROR, "worker did not start", worker=number, message=str(error))
            else:
                pid = self._workers[number].process.pid
                logs.event(logging.WARNING, "worker restarted", worker=number, pid=pid)

    def _ended(self, worker: Process) -> None:
        """Take back what a worker had."""
        self._workers.pop(worker.number, None)
        worker.channel.close()
        for budget in (self._budget, self._lanes):
            asyncio.get_running_loop().call_later(GRACE, budget.left, worker.serial)
        self._ears.left(worker.number)
        for (database, user), count in worker.clients.items():
            self._count(database, user, -count)

    def _tell(self, number: int, name: str, *arguments: Any) -> None:
        worker = self._workers.get(number)
        if worker is not None:
            worker.channel.tell(name, *arguments)

    def _tell_others(self, number: int, name: str, *arguments: Any) -> None:
        for worker in self._workers.values():
            if worker.number != number:
                worker.channel.tell(name, *arguments)

    async def _at(self, number: int, name: str, *arguments: Any) -> Any:
        """Return what one worker answers."""
        worker = self._workers.get(number)
        if worker is None:
            raise PoolerError(codes.CONNECTION_FAILURE, f"worker {number} is being restarted")
        return await worker.channel.call(name, *arguments)

    # -- listening

    def _bind(self, config: Config) -> dict[Address, list[list[socket.socket]]]:
        """Bind the addresses that are not bound yet, for each worker one; OSError."""
        bound: dict[Address, list[list[socket.socket]]] = {}
        try:
            for address in wanted(config):
                if address in self._sockets:
                    continue
                if address[0] == "unix":
                    bound[address] = [bind(config, address)] * self.count
                    continue
                bound[address] = []
                port = config.listen.port
                for _ in range(self.count):
                    bound[address].append(tcp_sockets(address[1], port, reuse_port=True))
                    port = bound[address][0][0].getsockname()[1]
        except BaseException:
            for groups in bound.values():
                _close(groups)
            raise
        return bound

    def _listening(
        self, number: int, sockets: dict[Address, list[list[socket.socket]]]
    ) -> tuple[Addresses, list[int]]:
        addresses = [(list(address), len(groups[number])) for address, groups in sockets.items()]
        files = [sock.fileno() for groups in sockets.values() for sock in groups[number]]
        return addresses, files

    def _report_addresses(self) -> None:
        for groups in self._sockets.values():
            for sock in groups[0]:
                logs.event(logging.INFO, "listening", address=socket_address(sock))

    # -- the budget

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._budget.rebalance()
            self._lanes.rebalance()

    def _limits(self, name: PoolName) -> Limits:
        """Return the limits of a pool, which its name resolves to."""
        route = self._route(name)
        if route is None:
            return NO_LIMITS
        pool = route.pool
        groups = (
            ("servers", self.config.limits.max_server_connections),
            (f"database {route.database}", pool.max_db_server_connections),
            (f"user {route.target.user}", pool.max_user_server_connections),
        )
        return Limits(pool.pool_size, pool.reserve_pool_size, pool.reserve_pool_timeout, groups)

    def _route(self, name: PoolName) -> Route | None:
        database, user, kind = name
        config = self.config
        return (config.auth_route if kind == AUTH else config.resolve)(database, user)

    def _lane_limits(self, name: PoolName) -> Limits:
        """Return how many changes of the schema may be under way in a pool."""
        route = self._route(name)
        return NO_LIMITS if route is None else Limits(route.pool.migrations.max_concurrent)

    def _tell_allotment(
        self, message: str, serial: int, name: PoolName, allotment: int, round_: int
    ) -> None:
        for worker in self._workers.values():
            if worker.serial == serial:
                worker.channel.tell(message, name, allotment, round_)

    # -- clients

    def _admit(self, number: int, database: str, user: str) -> str:
        """Count a client; or return the name of the limit that forbids it."""
        route = self._resolve(database, user)
        if route is not None:
            limits = (
                (_ALL, "", self.config.limits.max_client_connections),
                ("database", database, route.session.max_db_client_connections),
                ("user", user, route.session.max_user_client_connections),
            )
            for kind, name, limit in limits:
                if limit and self._clients[kind, name] >= limit:
                    of = f' of {kind} "{name}"' if kind else ""
                    return f"max_client_connections{of}"
        self._workers[number].clients[database, user] += 1
        self._count(database, user, +1)
        return ""

    def _gone(self, number: int, database: str, user: str) -> None:
        clients = self._workers[number].clients
        clients[database, user] -= 1
        if not clients[database, user]:  # clients choose names
            del clients[database, user]
        self._count(database, user, -1)

    def _count(self, database: str, user: str, change: int) -> None:
        for key in ((_ALL, ""), ("database", database), ("user", user)):
            self._clients[key] += change
            if not self._clients[key]:
                del self._clients[key]

    # -- configuration

    async def _reload_for(
        self, pairs: Pairs
    ) -> tuple[list[str], list[tuple[str, str | None, str | None]]]:
        """Reload for a worker's console: return what speaks against it, or what has changed."""
        try:
            found = await self._reloader.reload({tuple(path): value for path, value in pairs})
            return [], [(change.path, change.old, change.new) for change in found]
        except ReloadRefused as refused:
            return refused.problems, []

    async def _reload(self, overlay: Overlay) -> list[Change]:
        """Have every worker go by the configuration that is there now, or none of them.

        Returns what is different now; ReloadRefused: nothing is.
        """
        try:
            config = self._load(overlay)
            bound = self._bind(config)
        except (ConfigError, OSError) as error:
            raise ReloadRefused(problems_of(error)) from error
        found = changes(self.config, config)
        problems = await self._prepare(overlay, bound)
        if problems:
            for groups in bound.values():
                _close(groups)
            self._tell_others(-1, "discard")
            raise ReloadRefused(problems)
        self.config = config
        self._resolve = lru_cache(ROUTES)(config.resolve)
        self._overlay = overlay
        self._sockets.update(bound)
        for address in set(self._sockets) - set(wanted(config)):
            _close(self._sockets.pop(address))
        await self._call_all("commit")
        self._budget.configure()
        self._lanes.configure()
        logs.set_up(config.logging.format, config.logging.level, config.logging.repeat_limit)
        logs.event(logging.INFO, "reloaded", changes=[str(change) for change in found])
        if config.workers != self.count:
            logs.event(logging.WARNING, "restart needed", setting="workers", running=self.count)
        return found

    def _pairs(self) -> Pairs:
        return [(list(path), value) for path, value in self._overlay.items()]

    async def _prepare(
        self, overlay: Overlay, bound: dict[Address, list[list[socket.socket]]]
    ) -> list[str]:
        """Have every worker get ready for it; return what speaks against it."""

        pairs = [(list(path), value) for path, value in overlay.items()]

        async def one(worker: Process) -> list[str]:
            addresses, files = self._listening(worker.number, bound)
            found: list[str] = await worker.channel.call(
                "prepare", pairs, addresses, files=files, within=RELOAD_TIMEOUT
            )
            return found

        answers = await asyncio.gather(
            *(one(worker) for worker in self._workers.values()), return_exceptions=True
        )
        problems: dict[str, None] = {}
        for answer in answers:
            if isinstance(answer, ChannelLost):  # it has ended: the next one reads it anyway
                continue
            texts = [str(answer)] if isinstance(answer, BaseException) else answer
            problems.update(dict.fromkeys(texts))
        return list(problems)

    async def _call_all(
        self, name: str, *arguments: Any, but: int = -1, within: float | None = CALL_TIMEOUT
    ) -> list[Any]:
        """Return what the workers answer; of those that have ended, nothing."""
        calls = [
            worker.channel.call(name, *arguments, within=within)
            for worker in self._workers.values()
            if worker.ready.is_set() and worker.number != but
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        lost = (ChannelLost, TimeoutError)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, lost):
                raise answer
        return [answer for answer in answers if not isinstance(answer, lost)]


def _cannot_be_replaced() -> None:
    logs.event(
        logging.ERROR,
        "upgrade failed",
        message="a pooler with several workers cannot be replaced while it runs: restart it",
    )


def _report(budget: Budget, serial: int, news: Iterable[tuple[Any, ...]]) -> None:
    for (database, user, kind), answers, *report in news:
        budget.report(serial, (database, user, kind), answers, Report(*report))


class StartFailed(Exception):
    """A worker ended before it served, or did not get there in time."""

    def __init__(self, number: int) -> None:
        super().__init__("it ended before it was ready, or was not ready in time")
        self.number = number


async def _all(waits: Iterable[Awaitable[object]]) -> None:
    await asyncio.gather(*waits)


def _close(groups: list[list[socket.socket]]) -> None:
    for sockets in groups:
        for sock in sockets:
            if sock.fileno() >= 0:
                unlink(sock)
                sock.close()
