"""Declare the input of a stage: one frozen dataclass with one field per key of the config.

    class LatentsInput(Flushed):
        vae: Node = parts("model.first_stage_config", identity=("target", …), volatile=("params.slicing",))
        precision: str = identity("args.encoder_precision")
        batch: int = volatile("args.encode_batch")

*Identity* keys are part of the digest of the stage. *Volatile* keys are not: they affect speed or output to the terminal,
never results. A key is a dotted path and covers everything below it; ``*`` matches one segment, a list index or a name.
The longest matching key decides; keys without a match are not passed to the stage.

A value that is missing in a slice (null keys of DeepSpeed are omitted, older versions had fewer keys) is the schema's
default. The schema is the only place with defaults.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from cogtune.config.hints import Declared, all_keys, with_stars
from cogtune.errors import UserError
from cogtune.runtime.typed_json import is_list

Node = dict[str, Any]
"""A ``{target, params}`` mapping, for `build` and `params_of`; or a section that is passed to a library unchanged."""
WHOLE = ""
"""The part of a node that contains everything not named by another part."""

_READS = "reads"
Input = TypeVar("Input")


class Unread:
    """The type of a field whose keys are identity although the stage does not read them."""


_UNREAD = Unread()


@dataclass(frozen=True)
class Reads:
    """The keys of one field: ``key``: the path of its value; ``identity`` and ``volatile``: patterns of keys; ``because``: why
    keys that are not read are identity."""

    key: str
    identity: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ()
    because: str = ""


def _field(reads: Reads) -> Any:
    return dataclasses.field(metadata={_READS: reads})


def identity(key: str, *, volatile: tuple[str, ...] = ()) -> Any:
    """A key, and everything below it, that the result depends on, except the ``volatile`` parts."""
    return parts(key, identity=(WHOLE,), volatile=volatile)


def volatile(key: str) -> Any:
    """A key that the result does not depend on."""
    return parts(key, volatile=(WHOLE,))


def parts(key: str, *, identity: tuple[str, ...] = (), volatile: tuple[str, ...] = ()) -> Any:
    """A mapping of which the stage gets these parts only, named by their paths in it."""

    def below(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{key}.{name}" if name else key for name in names)

    return _field(Reads(key, below(identity), below(volatile)))


def unread(*keys: str, because: str) -> Any:
    """Keys that are identity, or must not become another's, though the stage reads none of them."""
    return _field(Reads(keys[0], keys, because=because))


def reads_of(kind: type) -> dict[str, Reads]:
    """What each field of an input reads, by name."""
    return {field.name: field.metadata[_READS] for field in dataclasses.fields(kind)}


def read_input(kind: type[Input], config: Mapping[str, Any]) -> Input:
    """The input of a stage from the nested config of its slice. Raises UserError for a key that must be set and is not."""
    fields = reads_of(kind).items()
    return kind(**{name: _UNREAD if reads.because else _value(config, reads.key) for name, reads in fields})


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for segment in key.split("."):
        try:
            value = value[0 if segment == "*" else int(segment)] if is_list(value) else value[segment]
        except (KeyError, IndexError, TypeError):
            return default_of(key)
    return value


def default_of(key: str) -> Any:
    """The schema's default of a key, a section as a mapping. Raises UserError where there is none."""
    declared = _declared().get(with_stars(key))
    if declared is None or declared.field.required:
        raise UserError(f"{key}: not in the slice of this job, and it has no default; run snakemake again")
    default = declared.field.default()
    return {} if dataclasses.is_dataclass(default) else default


@cache
def _declared() -> dict[str, Declared]:
    """Every key at every place; if several components are valid at a place, the first one's."""
    return {declared.path: declared for declared in reversed(all_keys())}
