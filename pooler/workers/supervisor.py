"""The supervisor: has the workers started (see `crew`), and keeps them one pooler.

It serves no client and opens no server connection. It binds the listening sockets, one for each
worker with SO_REUSEPORT, and keeps them: while a worker is restarted, its connections wait. It
holds the budget, counts clients, passes cancels on, and has all workers go by a new configuration
or none. In an upgrade it speaks for them: see `estate` and `heir`.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import pooler
from pooler import logs
from pooler.activation import METRICS, NO_ACTIVATION
from pooler.channel import FILES_LIMIT, ChannelLost, Handler
from pooler.config import Change, Config, ConfigError, changes
from pooler.core import moving
from pooler.core.budget import NO_LIMITS, Budget, Limits, PoolName, Report
from pooler.core.keys import SLOTS
from pooler.handover import Kind
from pooler.handover.shares import News, limits_of, name_of, route_of
from pooler.handover.succession import Succession
from pooler.handover.taker import Taker
from pooler.metrics.process import SUPERVISOR, usage
from pooler.notify import notify
from pooler.reload import Load, Overlay, Reloader, ReloadRefused, problems_of
from pooler.service import ROUTES, either
from pooler.shutdown import End, Stop
from pooler.watch import watch
from pooler.workers.census import Census
from pooler.workers.crew import Crew, Process, StartFailed
from pooler.workers.ears import Ears
from pooler.workers.estate import WorkersEstate
from pooler.workers.heir import WorkersHeir
from pooler.workers.sockets import Groups, Sockets, close, no_sockets
from pooler.workers.worker import Pairs

TICK: Final = 0.1
"""Seconds between looks at who waits."""

RELOAD_TIMEOUT: Final = 30.0
"""Seconds that the workers have to read a configuration."""

GRACE: Final = 1.0
"""Seconds that PostgreSQL has to notice that the connections of a dead worker are gone."""

LAST_WORDS: Final = 10.0
"""Seconds above `shutdown_timeout` that the workers have to leave before they are killed."""


class Supervisor:
    """The process that `workers` above 1 starts."""

    def __init__(
        self, load: Load, config: Config, command: Sequence[str], taker: Taker | None = None
    ) -> None:
        """`command` starts a worker, see `Crew`; `taker`: another process is replaced."""
        self._load = load
        self.config = config
        self._resolve = lru_cache(ROUTES)(config.resolve)
        self.crew = Crew(
            command,
            config.workers,
            self._handlers,
            self._equip,
            self._ended,
            lambda: self._succession.handed_over,
        )
        self.budget = self.own_budget()
        self._lanes = Budget(self._lane_limits, partial(self._tell_allotment, "places"))
        self._ears = Ears(self.crew.tell)
        self._sockets = Sockets(self.crew.count)
        self.census = Census()
        self._overlay: Overlay = {}
        self._succession = _Succession(self, taker)
        self._heir = WorkersHeir(self, taker) if taker is not None else None
        self._idents = 0  # given by the pooler before this one
        self.slot = 0  # of the first worker, among those of cancel keys
        self._estate: WorkersEstate | None = None  # since another pooler was asked for
        self._given_metrics: tuple[Kind, list[socket.socket]] | None = None  # for the first worker
        self._offered: list[tuple[Kind, list[int]]] = []  # what the first worker has of these
        self._reloader = Reloader(
            self._reload, lambda: self._overlay, lambda: self._succession.handed_over
        )
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
            workers=self.crew.count,
        )
        taker = self._succession.taker
        try:
            if taker is not None:
                await self._welcomed(taker)
            given = taker.sockets if taker is not None else no_sockets
            self._sockets.commit(self.config, self._sockets.bind(self.config, given))
        except BaseException as error:
            if taker is not None:
                await taker.refuse(str(error) or type(error).__name__)
            raise
        self._heed_signals()
        tasks: list[asyncio.Task[None]] = []
        status = 1
        try:
            await self._begin(taker)
            self.crew.keep()
            files = watch(
                lambda: self.config.files, lambda: self.config.seen, self._reloader.changed
            )
            duties = (self._tick(), self._reloader.serve(), files)
            tasks = [loop.create_task(duty) for duty in duties]
            for where in self._sockets.addresses:
                logs.event(logging.INFO, "listening", address=where)
            logs.event(logging.INFO, "ready")
            notify("READY=1")
            await either(self._end.changed, self._succession.replaced)
            status = 0
        except StartFailed as failed:
            logs.event(
                logging.ERROR, "worker did not start", worker=failed.number, message=str(failed)
            )
            if taker is not None:
                await taker.refuse(str(failed))
        finally:
            await self._stop()
            for task in tasks:
                task.cancel()
            others = self._succession.handed_over or (taker is not None and not taker.served)
            self._sockets.close(unlinked=not others)
            self._succession.close()
            logs.event(logging.INFO, "stopped")
        return status

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self.stop)
        loop.add_signal_handler(signal.SIGQUIT, self.stop, Stop.NOW)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        loop.add_signal_handler(signal.SIGUSR2, self._succession.ask)

    async def _begin(self, taker: Taker | None) -> None:
        """Have all workers serve; StartFailed, Replaced."""
        workers = await self.crew.spawn_all()
        if taker is not None:
            await taker.may_serve()
        await asyncio.gather(*(self.crew.set_going(worker) for worker in workers))
        if taker is not None:
            taker.serves()

    async def _welcomed(self, taker: Taker) -> None:
        """Go on where the pooler before this one was; OSError, ConfigError."""
        await taker.may_prepare()
        self._idents = taker.welcome["idents"]
        self.slot = (taker.welcome["slot"] + 1) % SLOTS
        self._overlay = taker.overlay
        if taker.overlay:
            self.config = self._load(taker.overlay)
            self._resolve = lru_cache(ROUTES)(self.config.resolve)
        if any(taker.activated().values()):
            raise OSError(NO_ACTIVATION)
        if self.config.metrics.address is not None:
            host, port = self.config.metrics.address
            kind = (METRICS, host, str(port))
            self._given_metrics = kind, taker.sockets(*kind)

    def stop(self, how: Stop = Stop.SERVERS, timeout: float | None = None) -> None:
        """Have all workers end, as `Service.stop` says, and then this process."""
        self._end.want(how, timeout)

    @property
    def stopping(self) -> bool:
        """True once the end has begun."""
        return self._end.wanted

    def taken_over(self) -> None:
        """The pooler before this one has gone."""
        self._succession.taker = self._heir = None

    async def _stop(self) -> None:
        """Have every worker drain and leave, and kill who does not."""
        crew = self.crew
        crew.let_go()
        if not self._succession.handed_over:
            notify("STOPPING=1")
            self._succession.stop()
        ended = asyncio.create_task(crew.gone())
        end = self._end
        while not ended.done():
            end.changed.clear()
            logs.event(logging.INFO, "stopping", how=end.how.value or "NOW")
            crew.tell_all("stop", end.how.name, end.timeout)
            changed = asyncio.create_task(end.changed.wait())
            await asyncio.wait(
                {changed, ended}, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED
            )
            if not (ended.done() or changed.done()):
                crew.kill()
            changed.cancel()
        crew.close()

    def _patience(self) -> float | None:
        """Return the seconds that workers have to leave, None if there is no limit."""
        end, timeouts = self._end, self.config.timeouts
        limit = end.patience(timeouts.shutdown_timeout)
        if end.how is Stop.CLIENTS:
            limit = None if limit is None or end.timeout is None else limit + end.timeout
        return None if limit is None else limit + timeouts.shutdown_delay + LAST_WORDS

    # -- workers

    async def _equip(self, worker: Process) -> None:
        """Give a worker what it needs to serve."""
        number, tell = worker.number, worker.channel.tell
        holds = [held for _, held in await self.crew.call_all("belongings", but=number)]
        taker = self._succession.taker
        if not holds and taker is not None:
            holds = [taker.welcome["holds"]]
        if holds:
            tell("hold", holds[0])
        sockets = self._sockets.of(number)
        if self._given_metrics is not None and number == 0:
            kind, sockets[kind] = self._given_metrics
        for address, group in sockets.items():
            files = [sock.fileno() for sock in group]
            for start in range(0, len(files), FILES_LIMIT):
                tell("sockets", address, files=files[start : start + FILES_LIMIT])
        if self._given_metrics is not None and number == 0:
            close({kind: [self._given_metrics[1]]})
            self._given_metrics = None
        orders = {
            "overlay": self.pairs(),
            "idents": self._idents,
            "slot": (self.slot + number) % SLOTS,
            "succeeds": self._heir is not None,
        }
        tell("listen", orders)
        if self._heir is not None:
            self._heir.introduce(worker)

    def _handlers(self, number: int, serial: int) -> dict[str, Handler]:
        """Return what answers a worker."""
        return {
            "report": lambda news: _report(self.budget, serial, news),
            "share": partial(self._share, serial),
            "statement": partial(self._statement, serial),
            "client": partial(self._client, serial),
            "lack": self._lack,
            "hears": partial(self._hears, serial),
            "took": self._took,
            "followed": partial(self._followed, number),
            "metrics": self._take_metrics,
            "upgrade": self._succession.start,
            "held": self._held,
            "cancel": lambda pid, secret: self._cancel(number, pid, secret),
            "report_lanes": lambda news: _report(self._lanes, serial, news),
            "admit": lambda database, user: self._admit(number, database, user),
            "gone": lambda database, user: self._gone(number, database, user),
            "tell_others": partial(self.crew.tell_others, number),
            "others": lambda within, name, *arguments: self.crew.call_all(
                name, *arguments, but=number, within=within
            ),
            "usage": partial(usage, SUPERVISOR),
            "at": self.crew.call,
            "reload": self._reload_for,
            "stop": lambda how, timeout: self.stop(Stop[how], timeout),
            **self._ears.handlers(number),
        }

    def _ended(self, worker: Process, in_order: bool) -> None:
        """Take back what a worker had; PostgreSQL knows already, if it ended `in_order`."""
        grace = 0.0 if in_order else GRACE
        loop = asyncio.get_running_loop()
        for budget in (self.budget, self._lanes):
            loop.call_later(grace, budget.left, worker.serial)
        if self._estate is not None:
            loop.call_later(grace, self._estate.left, worker.serial)
        self._ears.left(worker.number)
        names = list(worker.clients)
        self.census.ended(worker.clients)
        for database, user in names:
            self._tell_counts(database, user)

    # -- upgrades

    def _share(self, serial: int, news: list[News]) -> None:
        if self._estate is not None:
            self._estate.share(serial, news)

    def _statement(self, serial: int, statement: moving.Packed) -> None:
        if self._estate is not None:
            self._estate.statement(serial, statement)

    def _client(self, serial: int, packed: moving.Packed, files: tuple[int, ...] = ()) -> None:
        if self._estate is not None:
            self._estate.client(serial, packed, files)
        for file in files:
            os.close(file)

    def _lack(self, name: list[str], channels: list[str]) -> None:
        if self._estate is not None:
            self._estate.rounds.lack(name_of(name), channels)

    def _hears(self, serial: int, number: int) -> None:
        if self._estate is not None:
            self._estate.rounds.hears(serial, number)

    def _followed(self, worker: int, number: int) -> None:
        if self._heir is not None:
            self._heir.followed(worker, number)

    def _took(self, source: int, ident: int) -> None:
        if self._heir is not None:
            self._heir.took(source, ident)

    def _held(self, holds: list[list[Any]]) -> None:
        if self._succession.taker is not None:
            self._succession.taker.hold(holds)

    def _cancel(self, number: int, pid: int, secret: str) -> None:
        self.crew.tell_others(number, "cancel", pid, secret)
        for other in (self._succession.taker, self._succession.giver):
            if other is not None:
                other.tell("cancel", pid, secret)

    async def open_sockets(self) -> list[tuple[Kind, list[int]]]:
        """Return what all workers listen on: what for, and the descriptors."""
        self.close_offered()
        first = self.crew.workers.get(0)
        if first is not None:
            await first.channel.call("metrics")  # before it answers, it has told
        return [*self._offered, *self._sockets.offered()]

    def _take_metrics(self, kind: list[str], files: tuple[int, ...] = ()) -> None:
        self._offered.append(((kind[0], kind[1], kind[2]), list(files)))

    def close_offered(self) -> None:
        """Let go of what was given away."""
        offered, self._offered = self._offered, []
        for _, files in offered:
            for file in files:
                os.close(file)

    # -- the budget

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.budget.rebalance()
            self._lanes.rebalance()

    def own_budget(self) -> Budget:
        """Begin a budget that nothing is in yet."""
        self.budget = Budget(self.limits, partial(self._tell_allotment, "allot"))
        return self.budget

    def limits(self, name: PoolName) -> Limits:
        """Return the limits of a pool."""
        return limits_of(self.config, name)

    def _lane_limits(self, name: PoolName) -> Limits:
        """Return how many changes of the schema may be under way in a pool."""
        route = route_of(self.config, name)
        return NO_LIMITS if route is None else Limits(route.pool.migrations.max_concurrent)

    def _tell_allotment(
        self, message: str, serial: int, name: PoolName, allotment: int, round_: int
    ) -> None:
        if serial < 0:
            if self._heir is not None:
                self._heir.allot(serial, name, allotment, round_)
            return
        for worker in self.crew.workers.values():
            if worker.serial == serial:
                worker.channel.tell(message, name, allotment, round_)

    # -- clients

    def _admit(self, number: int, database: str, user: str) -> str:
        """Count a client; or return the name of the limit that forbids it."""
        route = self._resolve(database, user)
        if route is not None:
            most = self.config.limits.max_client_connections
            full = self.census.full(database, user, route, most)
            if full:
                return full
        self.count_in(self.crew.workers[number], database, user)
        return ""

    def count_in(self, worker: Process, database: str, user: str) -> None:
        """Count a client that a worker has."""
        self.census.come(worker.clients, database, user)
        self._tell_counts(database, user)

    def _gone(self, number: int, database: str, user: str) -> None:
        self.census.gone(self.crew.workers[number].clients, database, user)
        self._tell_counts(database, user)

    def _tell_counts(self, database: str, user: str) -> None:
        if self._estate is not None:
            self._estate.counted(self.census.counts(database, user))

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
            bound = self._sockets.bind(config)
        except (ConfigError, OSError) as error:
            raise ReloadRefused(problems_of(error)) from error
        found = changes(self.config, config)
        problems = await self._prepare(overlay, bound)
        if problems:
            close(bound)
            self.crew.tell_all("discard")
            raise ReloadRefused(problems)
        self.config = config
        self._resolve = lru_cache(ROUTES)(config.resolve)
        self._overlay = overlay
        self._sockets.commit(config, bound)
        await self.crew.call_all("commit")
        self.budget.configure()
        self._lanes.configure()
        logs.set_up(config.logging.format, config.logging.level, config.logging.repeat_limit)
        logs.event(logging.INFO, "reloaded", changes=[str(change) for change in found])
        if config.workers != self.crew.count:
            logs.event(
                logging.WARNING, "restart needed", setting="workers", running=self.crew.count
            )
        return found

    def pairs(self) -> Pairs:
        return [(list(path), value) for path, value in self._overlay.items()]

    async def _prepare(self, overlay: Overlay, bound: Groups) -> list[str]:
        """Have every worker get ready for it; return what speaks against it."""

        pairs = [(list(path), value) for path, value in overlay.items()]

        async def one(worker: Process) -> list[str]:
            own = {address: groups[worker.number] for address, groups in bound.items()}
            addresses = [(list(address), len(sockets)) for address, sockets in own.items()]
            files = [sock.fileno() for sockets in own.values() for sock in sockets]
            found: list[str] = await worker.channel.call(
                "prepare", pairs, addresses, files=files, within=RELOAD_TIMEOUT
            )
            return found

        answers = await asyncio.gather(
            *(one(worker) for worker in self.crew.workers.values()), return_exceptions=True
        )
        problems: dict[str, None] = {}
        for answer in answers:
            if isinstance(answer, ChannelLost):  # it has ended: the next one reads it anyway
                continue
            texts = [str(answer)] if isinstance(answer, BaseException) else answer
            problems.update(dict.fromkeys(texts))
        return list(problems)


class _Succession(Succession):
    """The upgrades of one supervisor."""

    def __init__(self, supervisor: Supervisor, taker: Taker | None) -> None:
        super().__init__(taker, lambda: supervisor.census.total)
        self._supervisor = supervisor

    def estate(self) -> WorkersEstate:
        """Return what there is to give."""
        self._supervisor._estate = WorkersEstate(self._supervisor)
        return self._supervisor._estate


def _report(budget: Budget, serial: int, news: Iterable[tuple[Any, ...]]) -> None:
    for (database, user, kind), answers, *report in news:
        budget.report(serial, (database, user, kind), answers, Report(*report))
