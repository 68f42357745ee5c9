"""Steps that changed nothing are named in the facts of a report."""

import pytest

from cogtune.evaluation.report.setup import steps_text
from tests.unit.stages.finished import summary_of_training


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"steps": 1000}, "1,000"),
        ({"steps": 1000, "skipped_steps": 3}, "1,000, 3 of them skipped, because loss or gradient was not finite"),
        ({"steps": 90, "overflowed_steps": 7}, "90, 7 of them without update, while fp16 searched its loss scale"),
    ],
)
def test_skipped_steps_are_in_the_facts(figures: dict[str, int], expected: str) -> None:
    assert steps_text(summary_of_training("k", **figures)) == expected
