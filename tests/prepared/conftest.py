"""The fixtures of the live tests serve here too."""

from tests.live.conftest import login, plain_pooler, shared_pooler, shared_poolers

__all__ = ["login", "plain_pooler", "shared_pooler", "shared_poolers"]
