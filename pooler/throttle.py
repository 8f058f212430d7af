"""Slows down whoever guesses passwords: how long an address has to wait for its next refusal.

A success is never delayed, nor anybody at another address; a unix socket has none and is exempt.
An IPv6 address counts as its /64, which is what one customer has. No clock: time is passed in.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

LONGEST: Final = 30.0
"""Seconds: below the patience of a person, above that of a dictionary."""

FORGIVEN_AFTER: Final = 30.0
"""Seconds without a failure after which one of them is forgotten."""

ADDRESSES: Final = 10_000
"""Remembered at most, some 2 MB; the one that failed longest ago is forgotten first."""


class Throttle:
    """What addresses have been up to."""

    def __init__(self, now: Callable[[], float], delay: Callable[[], float]) -> None:
        """`delay` is the seconds for the second failure, doubled for each after it; 0 is off."""
        self._now = now
        self._delay = delay
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()  # count, as of when

    def failed(self, address: str) -> float:
        """Note a failed login; return the seconds for which it is not told so."""
        base = self._delay()
        if not base or not address:
            return 0.0
        now = self._now()
        key = _key(address)
        count, since = self._failures.pop(key, (0.0, now))
        count = max(0.0, count - (now - since) / FORGIVEN_AFTER)
        delay = min(base * 2.0 ** (count - 1.0), LONGEST) if count >= 0.5 else 0.0
        self._failures[key] = (count + 1.0 if delay < LONGEST else count, now)
        if len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        return delay


def _key(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, 64), strict=False).network_address)
