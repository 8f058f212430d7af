"""Fixtures of the tests of what people see: those of the live tests."""

from tests.live.conftest import login, plain_pooler, shared_pooler, shared_poolers

__all__ = ["login", "plain_pooler", "shared_pooler", "shared_poolers"]
