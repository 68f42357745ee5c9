"""Which clips a validation measures, with how many draws: bounded by time, chosen by seed, at least 16 timesteps a clip."""

import pytest

from cogtune.data.rows import Pair
from cogtune.train.validation_draws import (
    SHARE,
    STRATA,
    Draws,
    affordable,
    chosen,
    digest_of,
    requested,
    share_of_training,
    steps_between,
)

PAIRS = [Pair(f"clip{i}", f"text{i}") for i in range(40)]


@pytest.mark.parametrize("curves", [2, 3, 7])
@pytest.mark.parametrize("global_batch", [1, 16, 128])
@pytest.mark.parametrize("between", [10, 90.9, 5000])
def test_time_is_bounded_unless_one_clip_takes_more(between: float, global_batch: int, curves: int) -> None:
    draws = affordable(between, global_batch, curves, most_clips=1000)
    assert draws.strata == STRATA
    share = share_of_training(draws, curves, between, global_batch)
    assert share <= SHARE or draws.clips == 1
    more = share_of_training(Draws(draws.clips + 1, STRATA), curves, between, global_batch)
    assert more > SHARE or draws.clips == 1000


@pytest.mark.parametrize(
    ("interval", "steps"), [(100, 1000), (100, 1050), (100, 100), (100, 20), (5000, 1), (1, 1), (7, 8)]
)
def test_a_short_training_pays_for_its_first_and_last_validation(interval: int, steps: int) -> None:
    validations = {0, *range(interval, steps, interval), steps}
    assert steps_between(interval, steps) == steps / len(validations)


@pytest.mark.parametrize(
    ("batches", "batch", "clips", "expected"),
    [
        (1, 1, 5, Draws(1, 1)),  # upstream's sft.yaml
        (8, 1, 5, Draws(1, 8)),
        (40, 1, 5, Draws(2, 20)),
        (100, 4, 5, Draws(5, 80)),  # upstream's defaults
        (100, 4, 100, Draws(25, 16)),
        (1_000_000, 4, 2, Draws(2, 1000)),
    ],
)
def test_requested_batches_are_a_limit(batches: int, batch: int, clips: int, expected: Draws) -> None:
    draws = requested(batches, batch, clips, timesteps=1000)
    assert draws == expected
    assert draws.clips * draws.strata <= batches * batch


def test_the_choice_follows_from_the_seed() -> None:
    few, more = chosen(PAIRS, 5, seed=1), chosen(PAIRS[::-1], 9, seed=1)
    assert few == more[:5]
    assert few != chosen(PAIRS, 5, seed=2)
    assert sorted(pair.clip for pair in chosen(PAIRS, 100, 1)) == sorted(pair.clip for pair in PAIRS)
    without = [pair for pair in PAIRS if pair not in few[:1]]
    assert chosen(without, 4, seed=1) == few[1:], "a clip that is removed changes no other choice"


def test_other_clips_or_timesteps_are_other_draws() -> None:
    digests = [digest_of(PAIRS[:2], 16), digest_of(PAIRS[:3], 16), digest_of(PAIRS[:2], 8)]
    assert len(set(digests)) == 3
    assert digest_of(PAIRS[1::-1], 16) == digests[0]
