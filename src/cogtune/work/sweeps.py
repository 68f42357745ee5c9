"""`sweep:` in config/config.yaml: a grid over keys; each point is an experiment, and one report compares all."""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cogtune.config.errors import ConfigError
from cogtune.runtime.paths import check_name, quoted
from cogtune.runtime.typed_json import is_list, is_mapping
from cogtune.work.experiment import Experiment, parse_experiment, refuse_unknown

_KEYS = {"experiment", "base", "set", "ranks", "grid"}


@dataclass(frozen=True)
class Sweep:
    """``points``: experiment name -> {swept key: value}, in the order of the grid, the last key varying fastest."""

    name: str
    points: dict[str, dict[str, Any]]


def expand_sweep(
    name: str, body: Any, experiments: Mapping[str, Experiment], ranks: int, where: str
) -> tuple[Sweep, dict[str, Experiment]]:
    """The sweep and its experiments, based on a named ``experiment``, or on its own ``base`` and ``set``.

    Raises ConfigError, starting with ``where``.
    """
    grid_values = body.get("grid") if is_mapping(body) else None
    if not is_mapping(body) or not is_mapping(grid_values) or not grid_values:
        raise ConfigError(f"{where}: expected a mapping with `grid: {{key: [value, …]}}` and `experiment:` or `base:`")
    refuse_unknown(body, _KEYS, where)
    start = _start(name, body, experiments, ranks, where)
    grid = {key: _values(key, values, f"{where}.grid.{key}") for key, values in grid_values.items()}
    short = _short_names(grid)
    members: dict[str, Experiment] = {}
    points: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        member = "-".join([name, *(f"{short[key]}_{_in_a_name(value)}" for key, value in point.items())])
        if member in points:
            raise ConfigError(
                f"{where}.grid: two points get the same name {member!r}; choose values with different names"
            )
        if problem := check_name(member):
            raise ConfigError(f"{where}.grid: {quoted(member)}: {problem}")
        points[member] = point
        members[member] = replace(start, name=member, set=(*start.set, *(_override(*item) for item in point.items())))
    return Sweep(name, points), members


def _start(
    name: str, body: dict[str, Any], experiments: Mapping[str, Experiment], ranks: int, where: str
) -> Experiment:
    own = {key: value for key, value in body.items() if key not in ("grid", "experiment")}
    if "experiment" not in body:
        return parse_experiment(name, own, ranks, where)
    if "base" in own:
        raise ConfigError(f"{where}: set either `experiment` or `base`, not both")
    if body["experiment"] not in experiments:
        raise ConfigError(
            f"{where}.experiment: unknown experiment {body['experiment']!r}; expected one of {', '.join(experiments)}"
        )
    start = experiments[body["experiment"]]
    more = parse_experiment(name, own | {"base": list(start.base)}, start.ranks, where)
    return replace(more, set=(*start.set, *more.set))


def _values(key: str, values: Any, where: str) -> list[Any]:
    if not is_list(values) or not values:
        raise ConfigError(f"{where}: expected a list of values to try")
    if any(is_mapping(value) for value in values):
        raise ConfigError(f"{where}: expected scalars or lists, not mappings; sweep the keys of the mapping instead")
    return values


def _short_names(grid: Mapping[str, Any]) -> dict[str, str]:
    """The last part of each key, or as many parts as needed to make it unique."""
    return {key: _in_a_name("_".join(_unique_tail(key.split("."), grid))) for key in grid}


def _unique_tail(parts: list[str], keys: Iterable[str]) -> list[str]:
    tails = (parts[-count:] for count in range(1, len(parts)))
    return next((tail for tail in tails if sum(key.split(".")[-len(tail) :] == tail for key in keys) == 1), parts)


def _in_a_name(value: Any) -> str:
    """A value as part of a folder's name: 0.0001 is "0.0001", [480, 720] is "480x720"."""
    text = "x".join(map(str, value)) if is_list(value) else _text(value)
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_") or "empty"


def _override(key: str, value: Any) -> str:
    return f"{key}={_text(value)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
