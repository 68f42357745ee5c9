"""Made-up data and wishes for tests of `cogtune new`."""

from dataclasses import replace
from typing import Any

from cogtune.data.listing import ClipRow
from cogtune.runtime.machines import Device, find
from cogtune.setup.clips import Data
from cogtune.setup.models import START_MODELS
from cogtune.setup.settings import Wish

ROW = ClipRow("a" * 64, "/d/a.mp4", "a.mp4", "train", "text", "b" * 64, 200, 25.0, 1280, 720)


def data(*seconds: float, fps: float = 25.0, folder: str = "clips") -> Data:
    """Clips of these lengths."""
    rows = [replace(ROW, clip=f"{i:064x}", frames=round(each * fps), fps=fps) for i, each in enumerate(seconds)]
    return Data(folder, rows, [], "labels/*.txt")


def device(name: str) -> Device:
    """A known device."""
    found = find(name)
    assert found is not None
    return found


def wish(model: str = "cogvideox-5b", card: str = "4090", lora: bool = True, ranks: int = 1, **more: Any) -> Wish:
    """What a user asks for; long clips unless ``data`` is given."""
    clips = more.pop("data", data(8, 9, 10, 12))
    return Wish("mine", clips, START_MODELS[model], lora, device(card), ranks, **more)
