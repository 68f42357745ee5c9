"""The learning rate as a pure function of the step, so a resumed run needs no scheduler state."""

import math
from dataclasses import dataclass

from cogtune.errors import UserError

STYLES = ("constant", "linear", "cosine", "exponential")
AUTO_WARMUP_STEPS = 100
AUTO_WARMUP_RATE = 0.05


@dataclass(frozen=True)
class Schedule:
    """Upstream's schedule (SwissArmyTransformer, training/learning_rates.py, AnnealingLR).

    ``lr``: peak rate. ``steps``: N, the length of the decay. ``warmup``: share of N with a linear rise from 0; 0 is
    allowed. ``style``: one of `STYLES`; "exponential" stays at the peak, because upstream never implemented that decay.
    ``decay_ratio``: final value of "cosine" as a share of the peak ("linear" ignores it, as upstream does).
    ``auto_warmup``: upstream's plateau at 5 % of the peak for the first 100 steps.

    Raises UserError for an unknown style, or a warmup or decay_ratio outside its range.
    """

    lr: float
    steps: int
    style: str = "linear"
    warmup: float = 0.01
    decay_ratio: float = 0.1
    auto_warmup: bool = False

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UserError(f"args.lr_decay_style: {self.style!r}; expected one of {', '.join(STYLES)}")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"args.warmup: {self.warmup}; expected a share of the steps, between 0 and 1")
        if not 0 < self.decay_ratio <= 1:
            raise UserError(f"args.lr_decay_ratio: {self.decay_ratio}; expected a share of the peak, in (0, 1]")

    def __call__(self, step: int) -> float:
        """The rate of optimizer step ``step``, counted from 0."""
        n, warmup_steps = step + 1, self.warmup * self.steps
        rising = self.lr * n / warmup_steps if n <= warmup_steps else self.lr
        if self.auto_warmup and n <= AUTO_WARMUP_STEPS:
            return min(AUTO_WARMUP_RATE * self.lr, rising)
        if n <= warmup_steps:
            return rising
        share = (n - warmup_steps) / self.steps
        if self.style == "linear":
            return self.lr * max(0.0, 1 - share)
        if self.style == "cosine":
            swing = (1 + math.cos(math.pi * min(1.0, share))) / 2
            return self.lr * (self.decay_ratio + (1 - self.decay_ratio) * swing)
        return self.lr
