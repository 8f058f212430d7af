"""Configuration: YAML, environment and command line to frozen settings, or to clear mistakes."""

from pooler.config.config import Config
from pooler.config.load import Overrides, load
from pooler.config.model import AuthType, Database, Settings, User
from pooler.config.problem import ConfigError, Problem

__all__ = [
    "AuthType",
    "Config",
    "ConfigError",
    "Database",
    "Overrides",
    "Problem",
    "Settings",
    "User",
    "load",
]
