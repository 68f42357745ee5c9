"""Canonical values by dotted path, for checks that compare keys."""

from collections.abc import Callable, Iterator
from typing import Any

from cogtune.config.build import params_of
from cogtune.config.errors import ConfigError
from cogtune.config.schema.dit import PositionParams

NETWORK = "model.network_config.params"
POSITIONS = f"{NETWORK}.modules.pos_embed_config.params"
SCHEDULES = ("denoiser_config.params", "loss_fn_config.params.sigma_sampler_config.params", "sampler_config.params")
"""Where a noise schedule stands in `model`."""
SCHEDULE = "discretization_config.params"


class Missing(Exception):  # noqa: N818  a key that is wrong or absent is reported elsewhere; nothing to compare
    pass


class Values:
    """Canonical values by dotted path; a path that is not there ends the check that asked for it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, path: str) -> Any:
        found = self.get(path, Missing)
        if found is Missing:
            raise Missing
        return found

    def get(self, path: str, default: Any = None) -> Any:
        found: Any = self._values
        for part in path.split("."):
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                return default
        return found


def positions(at: Values) -> PositionParams:
    """Params of the network's positions; the check ends where they are wrong or absent."""
    try:
        return params_of(at[f"{NETWORK}.modules.pos_embed_config"])
    except ConfigError:
        raise Missing from None


def run(check: Callable[[Values], Iterator[Any]], at: Values) -> Iterator[Any]:
    """What a check finds; nothing where a key that it compares is absent."""
    try:
        yield from check(at)
    except Missing:
        return
