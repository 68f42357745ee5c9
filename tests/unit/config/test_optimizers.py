"""Names and params of optimizers: what they mean, or why they are not accepted."""

from pathlib import Path
from typing import Any

import pytest

from cogtune.config import plugins
from cogtune.config.build import params_of
from cogtune.config.deepspeed_limits import refused
from cogtune.config.errors import ConfigError
from cogtune.config.optimizers import MEAN_ADAM, UNSUPPORTED
from cogtune.config.registry import canonical, find


@pytest.mark.parametrize("name", MEAN_ADAM)
def test_deepspeeds_names_mean_its_adam(name: str) -> None:
    entry = find(name, "optimizer")
    assert entry.name == "Adam"
    assert params_of({"target": entry.name, "params": {}}).adam_w_mode, "decoupled, as DeepSpeed has it"


def test_names_in_other_case() -> None:
    assert canonical("adamw") == "AdamW"
    for name in ("lamb", "onebitadam", "muon"):
        with pytest.raises(ConfigError, match="is not supported"):
            find(name, "optimizer")


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_known_optimizers_are_refused_with_a_reason_and_a_way_out(name: str) -> None:
    with pytest.raises(ConfigError, match="is not supported") as caught:
        find(name, "optimizer")
    assert any(words in str(caught.value) for words in ("docs/plugins.md", "use AdamW", "set type: ")), caught.value


BAD = [
    ({"optimizer": {"type": "AdamW", "params": {"adam_w_mode": False}}}, "optimizer.params.adam_w_mode"),
    ({"optimizer": {"type": "AdamW8bit"}, "bf16": {"bf16_optimizer_states": True}}, "bf16.bf16_optimizer_states"),
    (
        {"optimizer": {"type": "AdamW8bit"}, "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
        "zero_optimization.offload_optimizer.device",
    ),
]


@pytest.mark.parametrize(("section", "key"), BAD, ids=[key for _, key in BAD])
def test_combinations_that_do_nothing_are_refused(section: dict[str, Any], key: str) -> None:
    assert key in dict(refused(section))


def test_adamw_8bit_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogtune.config.deepspeed_limits.find_spec", lambda name: None)
    ((key, message),) = refused({"optimizer": {"type": "AdamW8bit"}})
    assert key == "optimizer.type"
    assert message.startswith("AdamW8bit; needs the package bitsandbytes")


PLUGIN = """
import torch

class OnTensors(torch.optim.SGD):
    pass

class Elementwise(OnTensors):
    elementwise = True
"""


@pytest.mark.parametrize("stage", range(4))
def test_a_plugin_says_whether_it_can_take_flat_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    monkeypatch.setattr(plugins, "_LISTED", {})
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "flat_optimizers.py").write_text(PLUGIN)
    plugins.allow_plugins(["flat_optimizers"], tmp_path)
    for name, accepted in (("OnTensors", stage == 0), ("Elementwise", True)):
        section = {"optimizer": {"type": f"flat_optimizers.{name}"}, "zero_optimization": {"stage": stage}}
        problems = [message for key, message in refused(section) if key == "zero_optimization.stage"]
        assert (problems == []) == accepted
        assert all("elementwise = True" in message for message in problems)
