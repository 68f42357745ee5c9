"""How a key is declared: a dataclass field with what the key means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class IdentityParams:
    """``torch.nn.Identity``: takes nothing."""


def key(
    default: Any = None,
    doc: str = "",
    *,
    unit: str = "",
    choices: Sequence[Any] = (),
    file: bool = False,
    node: bool = False,
    without_effect: str = "",
    refused: str = "",
    check: Callable[[Any], str | None] | None = None,
) -> Any:
    """A config key. ``file``: a path, hashed by content. ``node``: a {target, params} mapping.

    ``without_effect`` and ``refused`` hold the reason; ``check`` returns what is wrong with a value.
    """
    about = {
        "doc": doc,
        "unit": unit,
        "choices": tuple(choices),
        "file": file,
        "node": node,
        "without_effect": without_effect,
        "refused": refused,
        "check": check,
    }
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=about)
    return field(default=default, metadata=about)
