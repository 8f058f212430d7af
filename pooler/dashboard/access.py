"""Who is at the other end of a request: HTTP Basic, checked against what clients log in with.

An administrator's password is checked as his login to the console would be, by the rules that are
in force for his address; where these ask for no password (trust, peer, cert), one is asked for all
the same, since anything on this machine can send a request. Checking takes CPU or somebody else's
time, so it is done in threads, a few at a time, and what was right is remembered for a minute.
Who guesses waits, as in a login.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pooler.config import Config
from pooler.login.auth import Authenticator
from pooler.login.ends import Connection
from pooler.outside import Outside
from pooler.throttle import Throttle
from pooler.wire import passwords, scram
from pooler.wire.logins import Account, Find, LoginFailed

REMEMBERED: Final = 60.0
"""Seconds; a password that is changed by a reload is asked for at once."""
PROOFS: Final = 100
"""Remembered at most."""
CHECKS: Final = 16
"""Passwords being checked, or wrong ones being slowed down, at a time."""

CONSOLE: Final = "pooler"
"""The database that rules see such a login ask for: the console's."""


class TooBusy(Exception):
    """So many passwords are being checked that one more is not."""


class Access:
    """Checks passwords."""

    def __init__(
        self,
        config: Callable[[], Config],
        authenticator: Authenticator,
        throttle: Throttle,
        now: Callable[[], float],
    ) -> None:
        self._config = config
        self._authenticator = authenticator
        self._throttle = throttle
        self._now = now
        self._outside = Outside()
        self._key = secrets.token_bytes(32)
        self._nobody = scram.derive_verifier(secrets.token_hex(), secrets.token_bytes(16)).format()
        self._proofs: OrderedDict[bytes, float] = OrderedDict()
        self._checks = 0

    async def user(self, authorization: str, address: str) -> str | None:
        """Return the administrator whom the header proves, None without a proof; TooBusy."""
        given = _basic(authorization)
        if given is None:
            return None
        user, password = given
        if self._checks >= CHECKS:
            raise TooBusy
        self._checks += 1
        try:
            if await self._proves(user, password, address):
                return user
            await asyncio.sleep(self._throttle.failed(address))
            return None
        finally:
            self._checks -= 1

    async def _proves(self, user: str, password: str, address: str) -> bool:
        admin = user in self._config().admin.users
        try:
            found = self._authenticator.find(Connection(address), Find(user, CONSOLE, {}))
            account = found if isinstance(found, Account) else await found
        except LoginFailed:
            return False
        secret = account.secret
        if secret is None:
            secret = self._config().secret(user)
        proof = self._proof(user, password, secret or "")
        if self._proofs.get(proof, 0.0) > self._now():
            return True
        right = False
        try:
            if account.check is not None:
                right = not await account.check(password)
            else:
                # A stranger costs what an administrator costs, so that time tells no names.
                stored = self._nobody if secret is None else secret
                right = await self._outside.ask(lambda: passwords.matches(stored, user, password))
        except TimeoutError:
            return False
        if not right or not admin:
            return False
        self._proofs[proof] = self._now() + REMEMBERED
        if len(self._proofs) > PROOFS:
            self._proofs.popitem(last=False)
        return True

    def _proof(self, *texts: str) -> bytes:
        """What stands for a password that was right, in memory that might be read."""
        text = "\0".join(texts).encode("utf-8", "surrogateescape")
        return hmac.digest(self._key, text, hashlib.sha256)


def _basic(authorization: str) -> tuple[str, str] | None:
    """Return user and password of the header (RFC 7617); None: there are none in it."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = text.partition(":")
    return (user, password) if colon and user and "\0" not in text else None
