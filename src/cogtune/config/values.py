"""Canonical values by dotted path, for checks that compare keys."""

from collections.abc import Callable, Iterator
from typing import Any

from cogtune.config.build import params_of
from cogtune.config.errors import ConfigError
from cogtune.config.schema.dit import DiffusionTransformerParams, PositionParams

NETWORK = "model.network_config.params"
POSITIONS = f"{NETWORK}.modules.pos_embed_config.params"
SCHEDULES = ("denoiser_config.params", "loss_fn_config.params.sigma_sampler_config.params", "sampler_config.params")
"""Paths of the noise schedules below `model`."""
SCHEDULE = "discretization_config.params"


class Missing(Exception):  # noqa: N818  a missing or invalid key is reported by the schema check
    pass


class Values:
    """Canonical values by dotted path; reading a missing path ends the check that reads it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, path: str) -> Any:
        value = self.get(path, Missing)
        if value is Missing:
            raise Missing
        return value

    def get(self, path: str, default: Any = None) -> Any:
        value: Any = self._values
        for part in path.split("."):
            if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            elif isinstance(value, dict) and part in value:
                value = value[part]
            else:
                return default
        return value


def positions(at: Values) -> PositionParams:
    """Params of the network's positions; the check ends where they are wrong or absent."""
    try:
        return params_of(at[f"{NETWORK}.modules.pos_embed_config"])
    except ConfigError:
        raise Missing from None


def network(at: Values) -> DiffusionTransformerParams:
    """Params of the network; the check ends where they are wrong or absent."""
    try:
        return params_of(at["model.network_config"])
    except ConfigError:
        raise Missing from None


def run(check: Callable[[Values], Iterator[Any]], at: Values) -> Iterator[Any]:
    """The results of a check; empty if a key that it compares is missing."""
    try:
        yield from check(at)
    except Missing:
        return
