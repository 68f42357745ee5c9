"""Every recipe that README, docs and config files print: what it merges to beats its base on a toy."""

import re
from pathlib import Path

import pytest

from cogtune.work.load import load_config
from tests.unit.train.toy import Recipe, Toy

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
SOURCES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "config").glob("*.yaml"))]
LOW = "the LoRA will hardly learn"


def printed() -> dict[tuple[str, ...], set[str]]:
    """Files of each recipe that trains, in their order -> where it is printed. Files that only a reader has are left out."""
    sources: dict[tuple[str, ...], set[str]] = {}
    for source in SOURCES:
        for lists in re.findall(r"base: \[([^\]]*)\]|--base ((?:[\w./]+\.yaml ?)+)", source.read_text()):
            named = re.split(r"[,\s]+", (lists[0] or lists[1]).strip())
            files = tuple(name for name in named if (ROOT / name).is_file())
            if "config/sft.yaml" in files:
                sources.setdefault(files, set()).add(source.name)
    return sources


def recipe(*files: str) -> tuple[Recipe, list[str]]:
    config = load_config([ROOT / name for name in files], check_files=False)
    lora = config.values["model"]["network_config"]["params"]["modules"].get("lora_config")
    section = config.values["deepspeed"]
    made = Recipe(section["optimizer"], lora and lora["params"], section.get("gradient_clipping") or 0.0)
    return made, config.notices


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


def test_recipes_are_found_in_all_places() -> None:
    places = set[str]().union(*printed().values())
    assert {"experiments.md", "image_to_video.md", "plan.md", "lora.yaml"} <= places
    assert any("lora" in name for files in printed() for name in files)


def test_every_recipe_beats_its_base(toy: Toy) -> None:
    gains: dict[str, float] = {}
    for files in printed():
        made, notices = recipe(*files)
        assert not [line for line in notices if LOW in line], files
        gain = gains.setdefault(repr(made), gains.get(repr(made)) or toy.gain(made))
        assert gain > 0.03, (files, gain)
    assert len(gains) >= 3  # full tuning, and two ranks


def test_the_wrong_order_learns_nothing_and_gets_a_note(toy: Toy) -> None:
    """Upstream's order: its sft.yaml comes last, and its LoRA files name no rate."""
    made, notices = recipe("config/cogvideox_2b_lora.yaml", "config/sft.yaml")
    assert [line for line in notices if LOW in line]
    assert toy.gain(made) < 0.01


@pytest.mark.parametrize(
    ("rate", "alpha", "low"),
    [(1e-5, 1, True), (1e-5, 128, True), (5e-5, 1, True), (5e-4, 1, False), (1e-4, 128, False), (2e-3, 32, False)],
)
def test_which_rates_get_a_note(rate: float, alpha: float, low: bool) -> None:
    files = [ROOT / "config/sft.yaml", ROOT / "config/cogvideox_2b_lora.yaml"]
    alpha_key = "model.network_config.params.modules.lora_config.params.lora_alpha"
    words = [f"deepspeed.optimizer.params.lr={rate}", f"{alpha_key}={alpha}"]
    notices = load_config(files, words, check_files=False).notices
    assert any(LOW in line for line in notices) is low
