"""Stored secrets and what they can prove: plain text, PostgreSQL's md5, SCRAM verifiers.

Source: `src/backend/libpq/crypt.c`. A secret's kind shows in its text, as in `pg_authid`, so a
plain password that looks like one of the others is taken for it. No secret is in any exception.
"""

import hashlib
import hmac
import re
from enum import Enum
from typing import Final

from pooler.wire import scram

_MD5: Final = re.compile("md5[0-9a-f]{32}")


class Kind(Enum):
    """What a stored secret is."""

    PLAIN = "plain"
    MD5 = "md5"
    SCRAM = "scram-sha-256"


def kind_of(secret: str) -> Kind:
    """Return the kind of a stored secret."""
    if _MD5.fullmatch(secret):
        return Kind.MD5
    return Kind.SCRAM if scram.parse_verifier(secret) else Kind.PLAIN


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _md5(data: bytes) -> str:
    # usedforsecurity: where policy forbids md5, the protocol's own challenge is no exception to it
    return "md5" + hashlib.md5(data).hexdigest()


def md5_secret(password: str, user: str) -> str:
    """Return what PostgreSQL stores for a password under `password_encryption = md5`."""
    return _md5(_raw(password) + _raw(user))


def md5_answer(secret: str, user: str, salt: bytes) -> str:
    """Return the answer to an md5 challenge, from a plain or md5 secret."""
    stored = secret if kind_of(secret) is Kind.MD5 else md5_secret(secret, user)
    return _md5(_raw(stored[3:]) + salt)


def answers_md5(secret: str, user: str, salt: bytes, answer: str) -> bool:
    """Say whether `answer` answers the md5 challenge; the secret is plain or md5."""
    return hmac.compare_digest(_raw(md5_answer(secret, user, salt)), _raw(answer))


def matches(secret: str, user: str, password: str) -> bool:
    """Say whether a password sent in the clear is the stored one, of whatever kind."""
    verifier = scram.parse_verifier(secret)
    if verifier is not None:
        return verifier.matches(password)
    if kind_of(secret) is Kind.MD5:
        return hmac.compare_digest(_raw(md5_secret(password, user)), _raw(secret))
    return hmac.compare_digest(_raw(secret), _raw(password))
