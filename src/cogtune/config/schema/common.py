"""How a key is declared: a dataclass field, its type, and what a user may want to know about it."""

import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

REQUIRED: Any = object()
"""Stands for a default where there is none."""


@dataclass(frozen=True)
class Key:
    """What is known of a key beside its name, type and default.

    ``doc``             meaning, one line. ``unit`` of a number.
    ``choices``         the values that are legal. ``least``, ``most``: bounds of a number, or of each one in a list.
    ``items``           what the items of a list are, which also says how many: "height, width".
    ``file``            a path; its content, not its name, identifies it.
    ``node``            a ``{target, params}`` mapping; the word names the role that the target must have.
    ``keys``            a mapping that stays a dict; the dataclass says which keys it may have.
    ``whole``           an integer that may be written as 5e8.
    ``canonical``       the form of a legal value that stands for all others of the same meaning.
    ``without_effect``  accepted, ignored, in no digest: because …
    ``refused``         any other value than the default is an error: why, and what to do instead. In no digest.
    """

    doc: str = ""
    unit: str = ""
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    items: str = ""
    file: bool = False
    node: str = ""
    keys: type | None = None
    whole: bool = False
    canonical: Callable[[Any], Any] | None = None
    without_effect: str = ""
    refused: str = ""

    @property
    def honoured(self) -> bool:
        """Whether the value reaches a stage."""
        return not (self.without_effect or self.refused)


def key(default: Any, doc: str, *, choices: Sequence[Any] = (), **about: Any) -> Any:
    """A dataclass field for one key; see `Key` for ``about``. A list or dict default is copied for each instance."""
    metadata = {"key": Key(doc, choices=tuple(choices), **about)}
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Field:
    """One key of a schema dataclass, ready to use."""

    name: str
    type: Any
    key: Key
    required: bool
    _field: dataclasses.Field

    def default(self) -> Any:
        """A fresh default (None for a required key)."""
        if self._field.default_factory is not dataclasses.MISSING:
            return self._field.default_factory()
        return None if self.required else self._field.default


@functools.cache
def fields_of(schema: type) -> dict[str, Field]:
    """All keys of a schema dataclass, by name."""
    hints = typing.get_type_hints(schema)
    found = {}
    for field in dataclasses.fields(schema):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        found[field.name] = Field(field.name, hints[field.name], field.metadata.get("key", Key()), required, field)
    return found


class Sparse:
    """Base of schemas whose null keys are left out of the canonical values, so that a library's own default holds."""


@dataclass(kw_only=True)
class IdentityParams:
    """``torch.nn.Identity``: takes nothing."""
