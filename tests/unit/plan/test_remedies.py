"""Advice where memory is short: every setting that it names helps, the best comes first, and none is set already."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cogtune.plan.cost.work import Costs
from cogtune.plan.remedies import Remedy, changed, remedies_of, savings, with_remedies
from cogtune.plan.stage_costs import cost_of
from cogtune.work.load import load_config
from cogtune.work.stages import STAGES

CONFIG = Path(__file__).parents[3] / "config"
MODELS = sorted(path.stem for path in CONFIG.glob("cogvideox*.yaml") if path.stem != "cogvideox_common")
STAGES_WITH_ADVICE = ("train", "latents", "text", "sample", "evaluate")


def values(model: str, *overrides: str) -> dict[str, Any]:
    return load_config([CONFIG / "sft.yaml", CONFIG / f"{model}.yaml"], overrides, check_files=False).values


def of(stage: str, config: dict[str, Any]) -> Any:
    return cost_of(STAGES[stage])(Costs(config))


@pytest.mark.heavy
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ranks", [1, 4])
def test_each_helps_and_the_best_is_first(model: str, ranks: int) -> None:
    config = changed(values(model), [{"args.global_batch_size": 8}])
    for stage in STAGES_WITH_ADVICE:
        cost = of(stage, config)
        options = savings(stage, cost, ranks)
        assert all(option.bytes < cost.device_bytes(ranks) for option in options)
        assert all(one.bytes <= other.bytes for one, other in pairwise(options))
        assert options or stage == "text", "bf16 and one caption a batch is the least for T5"
        for remedy in remedies_of(stage, Costs(config), ranks):
            with_remedies(cost, [remedy]).device_bytes(ranks)  # all have a cost model


@pytest.mark.parametrize("model", MODELS)
def test_what_is_set_is_not_advised(model: str) -> None:
    """Each remedy alone, then all: the advice for the mended config does not name it again."""
    config = changed(values(model), [{"args.global_batch_size": 8}])
    for stage in STAGES_WITH_ADVICE:
        for remedy in remedies_of(stage, Costs(config), 1):
            if "max_num_frames" not in remedy.text:  # half of half is less again
                mended = with_remedies(of(stage, config), [remedy])
                assert remedy.text not in {saving.remedy.text for saving in savings(stage, mended, 1)}


def test_overrides_as_typed_mean_the_same() -> None:
    """What a user copies from the message has the effect that the message names."""
    config = values("cogvideox_5b", "args.global_batch_size=8")
    for stage in STAGES_WITH_ADVICE:
        for remedy in remedies_of(stage, Costs(config), 2):
            if re.fullmatch(r"[\w.]+=\S+", remedy.text):
                typed = values("cogvideox_5b", "args.global_batch_size=8", remedy.text)
                assert of(stage, typed).device_bytes(2) == with_remedies(of(stage, config), [remedy]).device_bytes(2)


def test_changes_are_made_in_a_copy() -> None:
    before = {"a": {"b": [{"c": 1}]}}
    assert changed(before, [{"a.b.0.c": 2, "x.y": 3}, {"x.y": 4}]) == {"a": {"b": [{"c": 2}]}, "x": {"y": 4}}
    assert before == {"a": {"b": [{"c": 1}]}}
    assert Remedy("words").values == {}


def test_the_advised_lora_is_the_shipped_one() -> None:
    (lora,) = [one for one in remedies_of("train", Costs(values("cogvideox_5b")), 1) if "LoRA" in one.text]
    shipped = values("cogvideox_5b_lora")["model"]["network_config"]["params"]["modules"]["lora_config"]
    assert shipped in lora.values.values()


def test_a_large_checkpoint_is_named_and_snapshots_count() -> None:
    full = of("train", values("cogvideox_5b", "args.global_batch_size=8"))
    (note,) = full.notes()
    assert re.fullmatch(r"train: a checkpoint has 89 GB, about 89 s at 1 GB/s; \d+ of them are kept .*", note)
    assert of("train", values("cogvideox_2b_lora", "args.global_batch_size=8")).notes() == []
    kept = of("train", values("cogvideox_5b", "args.global_batch_size=8", "args.snapshot_interval=100"))
    weights = 4 * full.costs.network.trained_count
    assert kept.disk_bytes(1000) == full.disk_bytes(1000) + 10 * weights
