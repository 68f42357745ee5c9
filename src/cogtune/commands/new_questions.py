"""The questions of `cogtune new`, on a terminal."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cogtune.errors import UserError
from cogtune.runtime import machines
from cogtune.setup.models import START_MODELS


@dataclass(frozen=True)
class Answers:
    """What must be known; "" for unknown. ``device`` may stay unknown where this machine has a GPU, or for the toy."""

    data: str
    model: str
    device: str


def ask(known: Answers, needs_device: bool) -> Answers:
    """Ask for what is not known yet. Raises UserError if the terminal is closed."""
    from rich.console import Console
    from rich.prompt import Prompt

    console = Console(stderr=True)

    def question(text: str, choices: list[str] | None = None, default: str | None = None) -> str:
        try:
            answer = Prompt.ask(text, console=console, choices=choices, default=default)
        except EOFError:
            raise UserError("the terminal was closed; nothing was written") from None
        return (answer or "").strip()

    if not known.data:
        known = replace(
            known, data=_until(question, "Folder of your clips", lambda text: Path(text).expanduser().exists())
        )
    if not known.model:
        known = replace(known, model=question("Model to start from", [*START_MODELS], "cogvideox-5b"))
    if needs_device and known.model != "toy":
        text = "GPU to train on (4090, H100, …, or its memory, such as 24GB; none was found here)"
        known = replace(known, device=_until(question, text, lambda name: machines.find(name) is not None))
    return known


def confirm(text: str) -> bool:
    """Whether the answer is yes."""
    from rich.console import Console
    from rich.prompt import Confirm

    try:
        return Confirm.ask(text, console=Console(stderr=True), default=True)
    except EOFError:
        return False


def _until(question: Callable[[str], str], text: str, valid: Callable[[str], bool]) -> str:
    """Ask until the answer is valid."""
    while not (answer := question(text)) or not valid(answer):
        pass
    return answer
