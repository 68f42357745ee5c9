"""Declare config keys: a dataclass field with its type, description and limits."""

import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

REQUIRED: Any = object()
"""Marks a key without default."""


@dataclass(frozen=True)
class Range:
    """The valid values of a number, both ends included, and the reason.

    Values outside are typos or cannot work: the ends are limits of the arithmetic, or far from all values in use.
    """

    minimum: float
    maximum: float
    why: str

    def __contains__(self, value: float) -> bool:
        return self.minimum <= value <= self.maximum

    def __str__(self) -> str:
        return f"{number(self.minimum)} to {number(self.maximum)}"


def number(value: float) -> str:
    """A number without trailing zeros: 100000, 0.001, 1e-16."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.15g}"


_ROLE_NAMES = {
    "lora": "LoRA",
    "modulation": "modulation layer",
    "positions": "position embedding",
    "timesteps": "timestep sampler",
}
"""Roles whose name in the registry cannot follow an article in a sentence."""


def with_article(role: str) -> str:
    """``a sampler``, ``an optimizer``, ``a position embedding``: the role of a component in a sentence."""
    name = _ROLE_NAMES.get(role, role)
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


SHARE = Range(0, 1, "it is a fraction")
SEED = Range(1, 2**32 - 1, "NumPy, which upstream seeds too, takes 32 bits")
STEPS = Range(1, 100_000_000, "100 million steps of one second take three years")
LR = Range(
    1e-10,
    1,
    "Adam moves a weight by about lr per step; weights are smaller than 1, and fp32 rounds steps below 1e-10 away",
)
DECAY = Range(0, 100, "a step multiplies weights by 1 - lr x decay, which is 0 for 100 at lr 0.01")
CLIPS = Range(1, 4096, "no device holds more than a few clips at once")
RANKS = Range(1, 1024, "all ranks run on one machine")
ACCUMULATION = Range(1, 65_536, "each pass is a forward and a backward pass of the network")
THREADS = Range(1, 1024, "all threads run on one machine")
PIXELS = Range(16, 8192, "video codecs support up to 8192 pixels, and a patch is 16 pixels")
FRAMES = Range(1, 16_385, "4 x 4096 + 1 frames are half an hour at 8 fps; the models were trained on 49 and 81")
LATENT_FRAMES = Range(1, 4097, "16385 frames are 4097 latent frames")
FPS = Range(0.001, 1000, "0.001 fps is one frame per 17 minutes, and high-speed cameras reach 1000 fps")
TIMESTEPS = Range(2, 10_000, "the published models have 1000")
SAMPLING_STEPS = Range(1, 10_000, "there are at most as many as training timesteps, 1000 in the models")
CHANNELS = Range(1, 65_536, "the largest published width is 3072; 65536 is beyond any device")
LATENT_CHANNELS = Range(1, 1024, "the published VAEs have 16")
TOKENS = Range(1, 4096, "T5 was trained on 512, and the models on 226")
FACTOR = Range(0.001, 1000, "a factor of 0 or less destroys the scaled values; published factors are near 1")
GUIDANCE = Range(0, 100, "0 ignores the caption, and published samples use 6 to 7")
STRENGTH = Range(-10, 10, "strengths in use are 0 to 2; a negative one does the opposite of the LoRA")
ELEMENTS = Range(1, 1_000_000_000_000, "the limit is a thousand times DeepSpeed's largest default")


@dataclass(frozen=True)
class Key:
    """The properties of a key besides its name, type and default.

    ``doc``             meaning, one line. ``unit``: of a number.
    ``choices``         the valid values.
    ``range``           of a number, or of each number in a list. Every number that has an effect has a range or choices.
    ``items``           the items of a list, and so their number: "height, width".
    ``file``            a path; it is identified by its content, not its name.
    ``folder``          for a path that must be a folder: what the folder contains.
    ``node``            a ``{target, params}`` mapping; the role that the target must have.
    ``keys``            a mapping that stays a dict; the dataclass says which keys it may have.
    ``whole``           an integer that may be written as 5e8.
    ``canonical``       function that maps values of equal meaning to one form.
    ``without_effect``  accepted and ignored, part of no digest: the reason.
    ``request``         for an ignored key whose other values ask for a feature: what happens instead.
    ``refused``         any value but the default is an error: why, and what to do instead. Part of no digest.
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
    def has_effect(self) -> bool:
        """Whether a stage reads the value."""
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
    """One key of a schema dataclass."""

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
    fields = {}
    for field in dataclasses.fields(schema):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        fields[field.name] = Field(field.name, hints[field.name], field.metadata.get("key", Key()), required, field)
    return fields


class OmitNulls:
    """Base of schemas whose null keys are omitted from the canonical values, so that the library's default applies."""


@dataclass(kw_only=True)
class IdentityParams:
    """``torch.nn.Identity``: no params."""
