"""How many clips a validation measures, with how many draws each, and which clips."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cogtune.data.rows import Pair
from cogtune.runtime.digest import digest

STRATA = 16
"""Draws per clip, at least: one in each of so many equal intervals of timesteps. Standard deviation over 40 seeds, one
clip of tests/unit/train/toy.py: 13.8 % of the mean with 1 draw, 4.2 % with 4, 2.1 % with 16."""
SHARE = 0.05
"""Share of the training's time that validation takes without ``args.eval_iters``, if one clip does not take more."""
PASSES_PER_SAMPLE = 3
"""Forward passes that take as long as forward and backward pass of one training sample."""


@dataclass(frozen=True)
class Draws:
    """``clips`` of each set, and ``strata`` draws of each clip."""

    clips: int
    strata: int


def affordable(between: float, global_batch: int, curves: int, most_clips: int) -> Draws:
    """As many clips of a set as `SHARE` allows, but at least one, with `STRATA` draws each.

    ``between``: see `steps_between`; ``curves``: number of losses per validation, each over so many clips; ``most_clips``: of
    the largest set.
    """
    passes = SHARE * PASSES_PER_SAMPLE * between * global_batch
    return Draws(min(most_clips, max(1, int(passes / curves / STRATA))), STRATA)


def requested(batches: int, batch: int, most_clips: int, timesteps: int) -> Draws:
    """At most ``batches`` batches of ``batch`` draws for each loss: all clips if each can have `STRATA` draws or more, else
    fewer clips, and for less than `STRATA` draws one clip."""
    draws = batches * batch
    clips = min(most_clips, max(1, draws // STRATA))
    return Draws(clips, min(draws // clips, timesteps))


def steps_between(interval: int, steps: int) -> float:
    """Steps of a training per validation: one precedes the first step, one follows the last of ``steps``, and others come
    every ``interval`` steps."""
    return steps / (1 + -(-steps // interval))


def share_of_training(draws: Draws, curves: int, between: float, global_batch: int) -> float:
    """The share of the training's time that validation takes, about."""
    return draws.clips * draws.strata * curves / (PASSES_PER_SAMPLE * between * global_batch)


def chosen(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """``count`` of ``pairs``, the same ones for the same seed, whatever their order; a smaller choice is part of a larger
    one."""

    def rank(pair: Pair) -> bytes:
        return hashlib.sha256(json.dumps([seed, "validation_clips", pair.clip]).encode()).digest()

    return sorted(pairs, key=rank)[:count]


def digest_of(pairs: Sequence[Pair], strata: int) -> str:
    """Identifies the draws of a loss: losses with equal digests, of one training, are comparable."""
    return digest([strata, *sorted([pair.clip, pair.caption_id] for pair in pairs)])[:8]
