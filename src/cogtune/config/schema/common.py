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
class Range:
    """The values that a number may have, both ends included, and why it ends there.

    Everything beyond is a slip or cannot work: an end is either where the arithmetic stops, or far from anything in use.
    """

    least: float
    most: float
    why: str

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"{number(self.least)} to {number(self.most)}"


def number(value: float) -> str:
    """A number as a person writes it: 100000, 0.001, 1e-16."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.15g}"


SHARE = Range(0, 1, "it is a share")
STEPS = Range(1, 100_000_000, "at a second each, 100 million steps take three years")
LR = Range(
    1e-10,
    1,
    "Adam moves a weight by about lr in a step; weights are smaller than 1, and in fp32 hardly any moves by less than 1e-10",
)
DECAY = Range(0, 100, "a step multiplies weights by 1 - lr x decay, and 100 takes all of a weight at lr 0.01")
CLIPS = Range(1, 4096, "no device holds more than a few clips at once")
RANKS = Range(1, 1024, "ranks are the devices of one machine")
ACCUMULATION = Range(1, 65_536, "each pass is a forward and a backward pass of the network")
THREADS = Range(1, 1024, "they are CPU threads of one machine")
PIXELS = Range(16, 8192, "video codecs end at 8192 pixels, and one patch is 16")
FRAMES = Range(1, 16_385, "4 x 4096 + 1 frames are half an hour at 8 fps; the models were trained on 49 and 81")
LATENT_FRAMES = Range(1, 4097, "16385 frames are 4097 latent ones")
FPS = Range(0.001, 1000, "0.001 fps is one frame in 17 minutes, and high-speed cameras reach 1000")
TIMESTEPS = Range(2, 10_000, "the models have 1000")
SAMPLING_STEPS = Range(1, 10_000, "there are at most as many as training timesteps, 1000 in the models")
CHANNELS = Range(1, 65_536, "the largest published width is 3072; 65536 is beyond any device")
LATENT_CHANNELS = Range(1, 1024, "the published VAEs have 16")
TOKENS = Range(1, 4096, "T5 was trained on 512, and the models on 226")
FACTOR = Range(
    0.001, 1000, "a factor of 0 or less destroys the values that it scales; the published factors are near 1"
)
GUIDANCE = Range(0, 100, "0 ignores the caption, and published samples use 6 to 7")
ELEMENTS = Range(1, 1_000_000_000_000, "the end is a thousand times DeepSpeed's largest default")


@dataclass(frozen=True)
class Key:
    """What is known of a key beside its name, type and default.

    ``doc``             meaning, one line. ``unit`` of a number.
    ``choices``         the values that are legal.
    ``range``           of a number, or of each one in a list. Every number that is honoured has one, or choices.
    ``items``           what the items of a list are, which also says how many: "height, width".
    ``file``            a path; its content, not its name, identifies it.
    ``folder``          of such a path: what its folder holds, where a plain file cannot stand.
    ``node``            a ``{target, params}`` mapping; the word names the role that the target must have.
    ``keys``            a mapping that stays a dict; the dataclass says which keys it may have.
    ``whole``           an integer that may be written as 5e8.
    ``canonical``       the form of a legal value that stands for all others of the same meaning.
    ``without_effect``  accepted, ignored, in no digest: because …
    ``request``         of a key without effect: another value than the default asks for something. What will happen instead.
    ``refused``         any other value than the default is an error: why, and what to do instead. In no digest.
    """

    doc: str = ""
    unit: str = ""
    choices: tuple[Any, ...] = ()
    range: Range | None = None
    items: str = ""
    file: bool = False
    folder: str = ""
    node: str = ""
    keys: type | None = None
    whole: bool = False
    canonical: Callable[[Any], Any] | None = None
    without_effect: str = ""
    request: str = ""
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
    _field: dataclasses.Field[Any]

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
