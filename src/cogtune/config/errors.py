"""Errors of configs: exit code 2."""

from cogtune.errors import UserError


class ConfigError(UserError):
    """One thing that is wrong with a config."""

    exit_code = 2
