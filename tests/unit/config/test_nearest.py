"""Which names count as near."""

import pytest

from cogtune.config.key_types import edits, nearest


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ("", "", 0),
        ("seed", "seed", 0),
        ("sede", "seed", 1),
        ("sed", "seed", 1),
        ("seeed", "seed", 1),
        ("seed", "sweep", 2),
    ],
)
def test_edits(one: str, other: str, count: int):
    assert edits(one, other) == edits(other, one) == count


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("sett", ["set", "sweep"], ["set"]),
        ("rnu", ["run", "ranks"], ["run"]),
        ("seed", ["sweep", "set"], []),
        ("noise_mode", ["compile_model", "noised_image_input"], []),
        ("tune", ["finetune", "pretrain"], ["finetune"]),
        ("Sampler", ["VideoDDIMSampler", "VPSDEDPMPP2MSampler"], ["VideoDDIMSampler"]),
        ("lx", ["lr", "r", "seed"], ["lr"]),
    ],
)
def test_only_slips_and_parts_are_near(name: str, known: list[str], near: list[str]):
    assert nearest(name, known) == near
