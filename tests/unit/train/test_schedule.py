"""The learning rate, held against upstream's formulas written out once more."""

import math
from typing import Any

import pytest

from cogtune.errors import UserError
from cogtune.train.schedule import Schedule

LR, N = 2e-4, 1000


@pytest.mark.parametrize(
    ("style", "step", "expected"),
    [
        ("linear", 0, LR * 1 / 10),  # warmup 0.01 of 1000 steps = 10
        ("linear", 9, LR),
        ("linear", 10, LR * (N - 1) / N),
        ("linear", 999, LR * 10 / N),  # ends at the warmup's share, not at decay_ratio
        ("cosine", 9, LR),
        ("cosine", 509, LR * (0.1 + 0.9 / 2)),
        ("cosine", 999, LR / 10 * ((math.cos(math.pi * 0.99) + 1) * 9 / 2 + 1)),
        ("constant", 999, LR),
        ("exponential", 999, LR),  # as upstream, where that decay was never written
    ],
)
def test_styles(style: str, step: int, expected: float) -> None:
    assert Schedule(LR, N, style=style)(step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("warmup", "step", "expected"),
    [
        (0.01, 0, 0.05 * LR),  # n/W = 0.1 is above the plateau
        (0.01, 99, 0.05 * LR),
        (0.01, 100, LR * (N - 91) / N),
        (0.5, 0, LR / 500),  # a slow warmup stays below the plateau
        (0.5, 99, 0.05 * LR),
        (0.0, 0, 0.05 * LR),  # upstream divides by zero
        (0.0, 100, LR * (N - 101) / N),
    ],
)
def test_auto_warmup(warmup: float, step: int, expected: float) -> None:
    assert Schedule(LR, N, warmup=warmup, auto_warmup=True)(step) == pytest.approx(expected, rel=1e-12)


def test_no_warmup_starts_at_the_peak() -> None:
    assert Schedule(LR, N, style="constant", warmup=0)(0) == LR


def test_decay_shorter_than_training_never_goes_below_zero() -> None:
    assert Schedule(LR, 100)(10_000) == 0.0
    assert Schedule(LR, 100, style="cosine")(10_000) == pytest.approx(0.1 * LR)


@pytest.mark.parametrize("wrong", [{"style": "step"}, {"warmup": 1.5}, {"decay_ratio": 0.0}])
def test_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"args\.lr_decay|args\.warmup"):
        Schedule(LR, N, **wrong)
