"""The table of what DeepSpeed cannot do, against the DeepSpeed that is installed: what the check lets pass gives the
optimizer the gradients that fp32 gives it, and what it refuses fails, differs, or does nothing."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cogtune.config import plugins
from cogtune.config.deepspeed_limits import LIMITS, idle, refused, stage_of

pytestmark = pytest.mark.heavy

REPO = Path(__file__).parents[3]
CLIPPED = 0.1
_CPU = {"device": "cpu"}
_LOW = {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}

PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8}},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "offload": {"zero_optimization": {"offload_optimizer": _CPU}},
    "offload_param": {"zero_optimization": {"offload_param": _CPU}},
    "ratio": {"zero_optimization": {"offload_optimizer": _CPU | {"ratio": 0.5}}},
    "nvme": {"zero_optimization": {"offload_optimizer": {"device": "nvme", "nvme_path": "/nowhere"}}},
    "predivide": {"gradient_predivide_factor": 2.0},
    "predivide, whole": {"gradient_predivide_factor": 2.0, "zero_optimization": {"reduce_scatter": False}},
    "prescale": {"prescale_gradients": True},
    "accumulation": {"data_types": {"grad_accum_dtype": "fp32"}},
    "low masters": {"bf16": {"bf16_master_weights_and_grads": True}},
    "low states alone": {"bf16": {"bf16_optimizer_states": True}},
    "low states": {"bf16": _LOW},
    "low states, offload": {"bf16": _LOW, "zero_optimization": {"offload_optimizer": _CPU}},
}
CASES = (
    [(stage, precision, "") for stage in range(4) for precision in PRECISIONS]
    + [(stage, "bf16", variant) for stage in (0, 2) for variant in VARIANTS]
    + [(3, "bf16", variant) for variant in ("offload_param", "ratio", "nvme", "predivide", "low states")]
    + [(1, "bf16", "accumulation")]
)
NO_EFFECT = ("needs ZeRO stage", "has no effect", "compiled at first use")
"""Words of rows whose key DeepSpeed takes, at some stages, and makes nothing of."""


def section(stage: int, precision: str, variant: str) -> dict[str, Any]:
    base = {"zero_optimization": {"stage": stage}, "gradient_clipping": CLIPPED, "optimizer": {"type": "AdamW"}}
    return _laid_over(_laid_over(base, PRECISIONS[precision]), VARIANTS.get(variant, {}))


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {name: _laid_over(below[name], above[name]) for name in below.keys() & above.keys() if name != "optimizer"}
    return below | above | both


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str, str], dict[str, Any]]:
    """What each case's real step gave the optimizer. Gradients have a norm near 3 before they are clipped."""
    meeting = tmp_path_factory.mktemp("steps") / "rendezvous"
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.train.deepspeed_steps", str(meeting)],
        input=json.dumps([section(*case) for case in CASES]), capture_output=True, text=True, cwd=REPO, timeout=300,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(lines) == len(CASES), done.stderr[-3000:]
    return dict(zip(CASES, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_passes_the_check_trains_with_the_gradients_of_fp32(
    seen: dict[tuple[Any, ...], Any], case: tuple[Any, ...]
) -> None:
    problems, found = list(refused(section(*case))), seen[case]
    right = found.get("norm") == pytest.approx(CLIPPED, rel=1e-3)
    if not problems:
        assert right, found
    elif right:
        assert all(any(words in message for words in NO_EFFECT) for _, message in problems), problems


PLUGIN = """
import torch

class OnTensors(torch.optim.SGD):
    pass
"""


def test_half_precision_at_stage_0_runs_as_stage_1() -> None:
    assert [stage_of(section(0, precision, "")) for precision in PRECISIONS] == [0, 1, 1]


def test_every_row_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_LISTED", {})
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "whole_tensors.py").write_text(PLUGIN)
    plugins.allow_plugins(["whole_tensors"], tmp_path)
    cases = [section(*case) for case in CASES]
    on_tensors = {"optimizer": {"type": "whole_tensors.OnTensors"}}
    cases += [section(0, "fp16", "") | on_tensors, section(0, "bf16", "low states") | on_tensors]
    cases.append(section(0, "fp16", "") | {"fp16": {"enabled": True, "fp16_master_weights_and_grads": True}})
    cases.append(section(3, "bf16", "") | {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}})
    cases.append(section(2, "bf16", "low states") | {"optimizer": {"type": "FusedEmaAdam"}})
    cases += [{name: {"enabled": True}} for name in ("tensorboard", "wandb")]
    cases.append({"optimizer": {"type": "AdamW", "params": {"adam_w_mode": False}}})
    cases += [
        section(2, "bf16", variant) | {"optimizer": {"type": "AdamW8bit"}} for variant in ("offload", "low states")
    ]
    cases.append({"zero_optimization": {"stage": 2, "round_robin_gradients": True}})
    cases += [section(0, "fp32", "offload"), section(0, "fp32", "") | {"data_types": {"grad_accum_dtype": "bf16"}}]
    packages = {"tensorboard.enabled": "tensorboard", "wandb.enabled": "wandb", "optimizer.type": "bitsandbytes"}
    for limit in LIMITS:
        absent = limit.key not in packages or find_spec(packages[limit.key]) is None
        assert any(limit.applies(case) for case in cases) == absent, limit
    assert not list(refused({}))


def test_keys_without_effect_are_told() -> None:
    zero = {"stage": 0, "overlap_comm": True, "sub_group_size": 5, "load_from_fp32_weights": False}
    (line,) = idle({"zero_optimization": zero})
    assert line.endswith("ignored at stage 0: overlap_comm, sub_group_size")
    (line,) = idle({"zero_optimization": zero | {"stage": 2}})
    assert line.endswith("ignored at stage 2: sub_group_size")
    assert not list(
        idle({"zero_optimization": zero | {"stage": 3}, "bf16": {"enabled": True, "check_grad_overflow": True}})
    )
    (line,) = idle({"fp16": {"enabled": False, "hysteresis": 2}})
    assert line == "deepspeed.fp16: ignored, because it is not enabled: hysteresis"
