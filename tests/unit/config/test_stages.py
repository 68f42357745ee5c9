"""The stages table against real configs: nothing in it is dead, and nothing in a config is read by nobody."""

from pathlib import Path

import pytest

from cogtune.config.leaves import leaves_of
from cogtune.work.load import load_config
from cogtune.work.slices import how_read
from cogtune.work.stages import STAGES, Stage

REPO = Path(__file__).resolve().parents[3]
CONFIGS = [
    ["config/tiny/demo_lora.yaml"],
    ["tests/workflow/tiny.yaml"],
    ["config/cogvideox1.5_5b_i2v.yaml", "config/sft.yaml"],
]
OPTIONAL = {"deepspeed.tensorboard", "deepspeed.wandb", "deepspeed.csv_monitor", "experiment", "as_written"}
"""Sections that stand in no shipped file, and what the plan adds for the report."""
DECIDED = {"args.batch_size", "args.gradient_accumulation_steps", "args.zero_stage"}
"""Keys that the merge has already turned into their deepspeed counterpart."""


@pytest.fixture(scope="module")
def leaves() -> set[str]:
    merged = (load_config([REPO / file for file in files], check_files=False) for files in CONFIGS)
    return {".".join(map(str, path)) for config in merged for path, _ in leaves_of(config.values)}


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_pattern_names_a_key(stage: Stage, leaves: set[str]) -> None:
    for pattern in {*stage.keys, *stage.volatile} - OPTIONAL:
        alone = Stage("alone", 1, keys=(pattern,))
        assert any(how_read(alone, leaf) for leaf in leaves), f"{stage.name}: {pattern} names nothing"


def test_every_key_is_read_by_a_stage_that_works(leaves: set[str]) -> None:
    working = [stage for stage in STAGES.values() if stage.name != "report"]
    unread = {leaf for leaf in leaves if not any(how_read(stage, leaf) for stage in working)}
    assert unread <= DECIDED, f"accepted and then read by nobody: {sorted(unread - DECIDED)}"
