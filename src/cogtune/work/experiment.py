"""An experiment of config/config.yaml."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cogtune.config.errors import ConfigError
from cogtune.config.key_types import nearest
from cogtune.config.overrides import COMMAND_LINE, parse_overrides
from cogtune.config.schema.common import RANKS
from cogtune.runtime.paths import check_name
from cogtune.runtime.typed_json import is_list, is_mapping

BY_HAND = "by-hand"
"""Name of an experiment that no workflow config has: results of commands with their own files are in results/by-hand/."""
_KEYS = {"base", "set", "ranks"}


@dataclass(frozen=True)
class Experiment:
    """SAT files merged in order, then dotlist overrides; ``ranks``: training processes. ``started_by``: the command that
    runs it, if it is in no file."""

    name: str
    base: tuple[str, ...]
    set: tuple[str, ...] = ()
    ranks: int = 1
    started_by: str = ""
    place: str = field(default="", compare=False)
    """File and key that hold `set`; "" for an experiment of the command line."""
    typed: int = 0
    """Number of words at the end of `set` that were typed after `--`."""

    @property
    def command(self) -> str:
        """What runs it, for a shell."""
        return self.started_by or f"snakemake --cores all experiment_{self.name}"

    @property
    def made_from(self) -> str:
        """Its files and settings, in words."""
        text = f"base: {', '.join(self.base)}"
        return f"{text}; set: {', '.join(self.set)}" if self.set else text


def parse_experiment(name: str, body: Any, ranks: int, where: str) -> Experiment:
    """Parse an experiment. Raises ConfigError, starting with ``where``."""
    if not is_mapping(body) or not body.get("base"):
        raise ConfigError(f"{where}: expected a mapping with `base: [file.yaml, …]`")
    if problem := check_experiment_name(name):
        raise ConfigError(f"{where}: {problem}")
    refuse_unknown(body, _KEYS, where)
    base = _texts(body["base"], f"{where}.base")
    own = body.get("ranks", ranks)
    if not isinstance(own, int) or isinstance(own, bool) or own not in RANKS:
        raise ConfigError(f"{where}.ranks: expected an integer from {RANKS}; found {own!r}")
    return Experiment(name, base, _texts(body.get("set") or [], f"{where}.set"), own, place=f"{where}.set")


def check_experiment_name(name: str) -> str | None:
    """Why ``name`` cannot be that of an experiment or a sweep; None if it can."""
    if name == BY_HAND:
        return f"{BY_HAND} is the folder of results of commands without an experiment; choose another name"
    return check_name(name)


def refuse_unknown(body: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raise ConfigError for a key that is not in ``known``."""
    for name in body:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(known))}"
            raise ConfigError(f"{where}: unknown key {name!r}; {hint}")


def _texts(value: Any, where: str) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not is_list(items) or not all(isinstance(item, str) for item in items):
        raise ConfigError(f"{where}: expected a list of strings; found {value!r}")
    return tuple(items)


def with_place(origin: Mapping[str, str], experiment: Experiment) -> dict[str, str]:
    """The origins of values, where those of the experiment's `set` name the file that holds it, not the command line."""
    count = len(experiment.set) - experiment.typed
    written, typed = (
        {".".join(override.path) for override in parse_overrides(words)}
        for words in (experiment.set[:count], experiment.set[count:])
    )
    of_file = written - typed

    def place(key: str, source: str) -> str:
        in_file = any(key == name or key.startswith(f"{name}.") for name in of_file)
        return experiment.place if source == COMMAND_LINE.origin and in_file else source

    return {key: place(key, source) for key, source in origin.items()}
