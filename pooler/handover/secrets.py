"""How what a pool's user proved goes to another process: a password, or the keys of SCRAM."""

from typing import Any

from pooler.wire.logins import Credential
from pooler.wire.scram import Keys


def packed_credential(credential: Credential | None) -> dict[str, Any] | None:
    """Return it as plain data."""
    if credential is None:
        return None
    if isinstance(credential, str):
        return {"password": credential}
    return {
        "iterations": credential.iterations,
        "salt": credential.salt.hex(),
        "client_key": credential.client_key.hex(),
        "server_key": credential.server_key.hex(),
    }


def unpacked_credential(packed: dict[str, Any] | None) -> Credential | None:
    """Return what was packed; KeyError, TypeError, ValueError: it was not."""
    if packed is None:
        return None
    if "password" in packed:
        return str(packed["password"])
    return Keys(
        int(packed["iterations"]),
        bytes.fromhex(packed["salt"]),
        bytes.fromhex(packed["client_key"]),
        bytes.fromhex(packed["server_key"]),
    )
