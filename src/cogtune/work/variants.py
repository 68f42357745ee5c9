"""The variants in which each prompt is sampled: the tuned model, and the controls that it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogtune.errors import UserError


@dataclass(frozen=True)
class Variant:
    """One way to sample all prompts. ``context``: "own" caption, the "next" prompt's, or "none" (zeros).

    ``guided`` runs the sampler's guider; otherwise the network's conditional output is used (scale 1).
    """

    name: str
    weights: str = "tuned"
    context: str = "own"
    guided: bool = False


TUNED = "tuned"
CONTROLS: dict[str, dict[str, str]] = {
    "base": {"weights": "base"},
    "shuffled": {"context": "next"},
    "null": {"context": "none"},
}


def variants(controls: Sequence[str], guided: bool, prompts: int) -> list[Variant]:
    """The tuned model's samples, then the requested controls, with the same guidance.

    Redundant controls are omitted: "guided" if the evaluated samples are already guided, "shuffled" if there is only one
    prompt. Raises UserError for an unknown control.
    """
    selected = [Variant(TUNED, guided=guided)]
    for name in dict.fromkeys(controls):
        if name == "guided":
            if not guided:
                selected.append(Variant("guided", guided=True))
        elif name in CONTROLS:
            if name != "shuffled" or prompts > 1:
                selected.append(Variant(name, guided=guided, **CONTROLS[name]))
        else:
            known = ", ".join([*CONTROLS, "guided"])
            raise UserError(f"args.sampling_controls: unknown control {name!r}; expected a list of: {known}")
    return selected
