from typing import Any

import torch

from cogtune.diffusion.noise import generator, normal, uniform


def draw(*keys: Any) -> float:
    return float(torch.rand((), generator=generator(*keys)))


def test_equal_keys_equal_streams_and_all_others_differ() -> None:
    keys = [(1, "noise", 2), (1, "noise", 3), (2, "noise", 2), (1, "index", 2), (1, "noise", "2"), (1, "nois", "e2")]
    assert draw(*keys[0]) == draw(*keys[0])
    assert len({draw(*key) for key in keys}) == len(keys)


def test_golden() -> None:
    """Trained weights depend on these numbers: a change here changes every run."""
    assert generator(42, "noise", 7, 3).initial_seed() == 7761890799372678484


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = normal((2, 3), 1, "noise", 5, indices=range(6))
    assert torch.equal(whole[4:], normal((2, 3), 1, "noise", 5, indices=[4, 5]))
    assert torch.equal(uniform(1, "t", indices=[0, 1])[1:], uniform(1, "t", indices=[1]))
    assert uniform(1, "t", indices=[0]).dtype == torch.float64
