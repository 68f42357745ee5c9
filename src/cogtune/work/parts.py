"""Parts of a job: its rows are made by several jobs of one device each, and the stage itself gathers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.work.stages import STAGES

Item = TypeVar("Item")

MOST_PARTS = 4096
PARTS = "parts"
"""Folder of the receipts of parts, below that of receipts. They exist until the stage itself has its receipt."""
_PART = re.compile(r"([0-9]{1,9})-of-([0-9]{1,9})")


@dataclass(frozen=True)
class Part:
    """Part ``number`` (from 1) of ``count``."""

    number: int
    count: int

    def __str__(self) -> str:
        """As in the options and file names of jobs: 2-of-8."""
        return f"{self.number}-of-{self.count}"

    def receipt(self, whole: Path) -> Path:
        """The receipt of this part of the job with the receipt ``whole``."""
        return whole.parent / PARTS / f"{whole.stem}.{self}.json"

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its items: adjacent ones. The parts are a partition of ``items``, and their sizes differ by at most one."""
        start, end = (number * len(items) // self.count for number in (self.number - 1, self.number))
        return items[start:end]


def part_receipts(whole: Path) -> list[Path]:
    """The receipts of all parts of the job with the receipt ``whole``, whatever their number."""
    return sorted((whole.parent / PARTS).glob(f"{whole.stem}.*-of-*.json"))


def check_scatter(option: str, counts: Mapping[str, int]) -> None:
    """Check into how many parts ``option`` cuts the jobs of each stage. Raises ConfigError for a stage without parts, and
    for a number out of range."""
    stages = [name for name, stage in STAGES.items() if stage.parts]
    for name, count in counts.items():
        if name not in stages:
            raise ConfigError(
                f"{option} {name}={count}: {name!r} is not a stage with parts; expected one of {', '.join(stages)}"
            )
        if not 1 <= count <= MOST_PARTS:
            raise ConfigError(
                f"{option} {name}={count}: expected {name}=N with a number of parts N from 1 to {MOST_PARTS}"
            )


def read_part(text: str) -> Part:
    """The part that `str` writes. Raises UserError."""
    match = _PART.fullmatch(text)
    part = Part(int(match[1]), int(match[2])) if match else Part(0, 0)
    if not 1 <= part.number <= part.count <= MOST_PARTS:
        expected = f"I-of-N, with I from 1 to N and N from 1 to {MOST_PARTS}, for example 2-of-8"
        raise UserError(f"expected {expected}; found {text!r}")
    return part
