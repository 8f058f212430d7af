"""Configuration: YAML, environment and command line to frozen settings, or to clear mistakes."""

from pooler.config.config import Config
from pooler.config.diff import Change, changes
from pooler.config.load import Overrides, load
from pooler.config.model import AuthType, Database, Settings, User
from pooler.config.problem import ConfigError, Problem
from pooler.config.schema import json_schema

__all__ = [
    "AuthType",
    "Change",
    "Config",
    "ConfigError",
    "Database",
    "Overrides",
    "Problem",
    "Settings",
    "User",
    "changes",
    "json_schema",
    "load",
]
