"""Suggestions for misplaced keys: where else a key of this name exists."""

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from cogtune.config import registry
from cogtune.config.key_types import members
from cogtune.config.schema.args import ArgsSection
from cogtune.config.schema.common import REQUIRED, Field, fields_of, key
from cogtune.config.schema.deepspeed import DeepSpeedSection, FusedEmaAdamParams, Optimizer
from cogtune.config.schema.model import ModelSection
from cogtune.config.schema.text import EmbedderKeys


@dataclass(kw_only=True)
class Sections:
    """The top level of a config."""

    model: ModelSection = key(REQUIRED, "network, VAE, text encoder, diffusion process")
    args: ArgsSection = key(ArgsSection, "how to train and to sample")
    data: dict[str, Any] = key({}, "how clips are read", node="dataset")
    deepspeed: DeepSpeedSection = key(DeepSpeedSection, "DeepSpeed's own configuration")


@dataclass(frozen=True)
class Declared:
    """One key at one place. ``owner``: the component whose params contain it, or the schema class."""

    path: str
    field: Field
    owner: str
    components: tuple[str, ...] = ()
    """Canonical names of the valid components, for a ``{target, params}`` mapping."""


@cache
def all_keys() -> tuple[Declared, ...]:
    """All keys of a config, at every place where they may be set; list items are ``*``."""
    return tuple(_section(Sections, "", "config"))


def _section(schema: type, path: str, owner: str) -> Iterator[Declared]:
    for name, field in fields_of(schema).items():
        key_path = f"{path}.{name}" if path else name
        item = f"{key_path}.*" if any(typing.get_origin(kind) is list for kind in members(field.type)) else key_path
        roles = registry.names(field.key.node) if field.key.node and schema is not Optimizer else []
        yield Declared(key_path, field, owner, tuple(roles))
        if schema is Optimizer and name == "params":
            yield from _section(FusedEmaAdamParams, key_path, "FusedEmaAdam")
        if field.key.keys is not None:
            yield from _section(field.key.keys, key_path, owner)
        for kind in members(field.type):
            if hasattr(kind, "__dataclass_fields__"):
                yield from _section(kind, key_path, kind.__name__)
        for component in roles:
            yield from _section(registry.find(component).schema, f"{item}.params", component)
            if field.key.node == "embedder":
                yield from _section(EmbedderKeys, item, component)


def with_stars(path: str) -> str:
    """A path as `Declared` has it: ``emb_models.0.params`` is ``emb_models.*.params``."""
    return ".".join("*" if part.isdecimal() else part for part in path.split("."))


def where_key_exists(name: str, current_path: str) -> str:
    """``a key of this name exists in model.network_config.params`` if one exists at one other place than ``current_path``."""
    named = [declared for declared in all_keys() if declared.field.name == name]
    places = sorted({declared.path.rpartition(".")[0] for declared in named} - {with_stars(current_path)})
    return f"a key of this name exists in {places[0]}" if len(places) == 1 else ""
