"""What a pooler of one process has to give to its successor."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pooler.handover import Kind
from pooler.handover.channels import Rounds
from pooler.handover.giver import IDENT_GAP, Giver
from pooler.handover.mover import Mover
from pooler.handover.shares import Shares, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pooler.service import Service

ALONE: Final = 0
"""The source of all that comes from a pooler of one process."""


class ServiceEstate:
    """That of one service."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._giver: Giver
        self.shares = Shares(service.router, lambda news: self._giver.tell("report", ALONE, news))
        self._rounds = Rounds(
            lambda: (ALONE,),
            lambda *what: self.mover.channels.follow(*what),
            lambda *what: self._giver.tell("follow", *what),
        )
        self.mover = Mover(
            service, self._tell, self._rounds.lack, partial(self._rounds.hears, ALONE)
        )

    def begin(self, giver: Giver) -> None:
        """Be given by this giver."""
        self._giver = giver

    def _tell(self, name: str, *arguments: Any, files: "Sequence[int]" = ()) -> None:
        self._giver.tell(name, ALONE, *arguments, files=files)

    @property
    def stopping(self) -> bool:
        """Whether the pooler is to end."""
        return self._service.stopping

    async def offer(self) -> tuple[dict[str, Any], list[tuple[Kind, list[int]]]]:
        """Return what a successor needs to prepare: plain data, and descriptors that listen."""
        service = self._service
        welcome = {
            "idents": service.router.idents + IDENT_GAP,
            "slot": service.router.keys.slot,
            "holds": service.router.holds.packed(service.now()),
            "overlay": [[list(path), value] for path, value in service.overlay.items()],
        }
        return welcome, service.open_sockets()

    async def suspend(self) -> dict[str, Any]:
        """Accept nobody, share all places; return what a successor needs to serve."""
        await self._service.suspend()
        self.shares.adopt()
        counts = self._service.router.client_counts()
        return {"pools": self.shares.packed(ALONE), "clients": counts}

    async def resume(self) -> tuple[int, int]:
        """Be as before; return how many clients are lost, and how many were taken back."""
        self.shares.release()
        await self._service.resume()
        return self.mover.moved, self.mover.take_back()

    async def leave(self) -> bool:
        """Move every client that can be, until there is nothing left to do here."""
        return await self.mover.run()

    def lost(self) -> None:
        """The successor has gone."""
        self.mover.lost()

    def took(self, source: int, ident: int) -> None:
        """A client is the successor's."""
        self.mover.took(ident)

    def allot(self, source: int, name: list[str], limit: int, round_: int) -> None:
        """Go by what the budget allots."""
        self.shares.allot(name_of(name), limit, round_)

    def cancel(self, pid: int, secret: str) -> None:
        """Do what the successor was asked for, whose client it is not."""
        self._service.cancel_with(pid, secret)

    def hold(self, holds: list[list[Any]]) -> None:
        """Pause, or go on, as the successor has been told to."""
        self._service.router.holds.take(holds, self._service.now())
        self._service.router.hold()

    def stop(self) -> None:
        """End, as the successor has been told to."""
        self._service.stop()
