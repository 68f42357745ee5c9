"""The ways in which each prompt is sampled: by the tuned model, and by the controls that it is measured against."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogtune.errors import UserError


@dataclass(frozen=True)
class Variant:
    """One way to sample all prompts. ``context``: "own" caption, the "next" prompt's, or "none" (zeros).

    ``guided`` runs the sampler's guider; otherwise the network's conditional output is used as it is (scale 1).
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
    """The tuned model's samples first, then the controls asked for, each under the same guidance as the tuned ones.

    Two controls can say nothing and are left out: "guided" when the measured samples are guided already, "shuffled"
    when there is one prompt only. Raises UserError for an unknown control.
    """
    found = [Variant(TUNED, guided=guided)]
    for name in dict.fromkeys(controls):
        if name == "guided":
            if not guided:
                found.append(Variant("guided", guided=True))
        elif name in CONTROLS:
            if name != "shuffled" or prompts > 1:
                found.append(Variant(name, guided=guided, **CONTROLS[name]))
        else:
            known = ", ".join([*CONTROLS, "guided"])
            raise UserError(f"args.sampling_controls: unknown control {name!r}; expected a list of: {known}")
    return found
