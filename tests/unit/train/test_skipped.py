"""A step whose loss or gradient is no number moves nothing: weights, masters, moments, average, loss scale. Real engines."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cogtune.train.skipped import Skipped, Skips

pytestmark = pytest.mark.heavy

REPO = Path(__file__).parents[3]
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "bf16, unchecked": {"bf16": {"enabled": True, "check_grad_overflow": False}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}},
}
CASES = [
    (stage, precision, kind, at)
    for stage in range(4)
    for precision in PRECISIONS
    for kind in ("loss", "gradient")
    for at in ((0, 1) if stage == 2 else (1,))
    if not (stage == 0 and precision == "fp16")
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Any, ...], list[dict[str, bool]]]:
    meeting = tmp_path_factory.mktemp("held") / "rendezvous"
    base = {"gradient_clipping": 0.1, "optimizer": {"type": "FusedEmaAdam"}}
    cases = [
        (base | {"zero_optimization": {"stage": stage}} | PRECISIONS[precision], kind, at)
        for stage, precision, kind, at in CASES
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.train.held_steps", str(meeting)],
        input=json.dumps(cases), capture_output=True, text=True, cwd=REPO, timeout=300,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(lines) == len(CASES), done.stderr[-3000:]
    return {case: json.loads(line)["steps"] for case, line in zip(CASES, lines, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_step_moves_nothing_and_those_around_it_do(seen: dict[tuple[Any, ...], Any], case: tuple[Any, ...]) -> None:
    _, precision, kind, at = case
    steps = seen[case]
    assert [step["applied"] for step in steps] == [i != at for i in range(3)]
    assert all(step["finite"] for step in steps)
    searches = precision == "fp16" and kind == "gradient"  # DeepSpeed's own search for a scale, which lowers it
    assert [step["overflowed"] for step in steps] == [searches and i == at for i in range(3)]
    if at == 1:
        assert steps[1]["same"] is not searches


def test_skipped_steps_are_counted_in_all_and_named() -> None:
    skips = Skips(2, {"a" * 64: "data/videos/a.mp4"})
    skips.restore([Skipped(3, "the loss is nan", ["a" * 64]).to_dict(), {"step": 9, "why": "…", "clips": ["b" * 64]}])
    assert skips.too_many(12) == ""
    assert "2 steps were skipped, which are all steps" in skips.too_many(2)
    skips.steps.append(Skipped(11, "the gradient norm is inf", ["a" * 64, *(f"{i}" * 64 for i in range(7))]))
    said = skips.too_many()
    assert said.startswith(
        "3 steps were skipped, more than args.max_skipped_steps: 2; the last one is step 11: the grad"
    )
    assert "data/videos/a.mp4 (aaaaaaaaaaaa), 2 times; bbbbbbbbbbbb" in said
    assert "and 4 more" in said
