"""Every family's LoRA in every format, through the stage's own round trip: our reload, and diffusers' and PEFT's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cogtune.config.diffusers_limits import SAT_FORMATS
from cogtune.model.lora import is_adapter
from cogtune.model.start import Start, initial_model
from cogtune.model.weights.formats import FORMATS, Settings
from cogtune.stages.export import Exporter
from cogtune.train.result import write_tensors
from tests.families import FAMILIES, IN_DIFFUSERS, network_config
from tests.parity import limits

pytest.importorskip("peft")
FOREIGN = {"diffusers", "diffusers_lora", "folded_lora", "peft"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_format(family: str, hold: Callable[..., None], tmp_path: Path) -> None:
    start = Start(network_config(family, lora={"r": 4, "lora_alpha": 3}), seed=3)
    draw = torch.Generator().manual_seed(1)
    adapters = [(name, p.detach()) for name, p in initial_model(start).named_parameters() if is_adapter(name)]
    trained = {name: p + 0.1 * torch.randn(p.shape, generator=draw) for name, p in adapters}
    write_tensors(tmp_path / "trained.safetensors", trained, {})
    exporter = Exporter(start, tmp_path / "trained.safetensors", Settings(torch.float32, facts={"steps": 1}))
    for name in FORMATS if family in IN_DIFFUSERS else SAT_FORMATS:
        entry = exporter.make(name, tmp_path)
        largest = float(exporter.expected.abs().max())
        hold(f"exported as {name}, loaded by us", family, entry.own_error / largest, limits.NETWORK)
        assert (entry.foreign.max_abs_error is not None) == (name in FOREIGN)
        if name in FOREIGN:
            error = entry.foreign.max_abs_error_at_one_epsilon
            assert error is not None
            hold(f"exported as {name}, loaded by diffusers", family, error / largest, limits.NETWORK)
