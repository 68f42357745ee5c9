"""Our LoRA file through diffusers' and PEFT's own loaders: same output, right strength, nobody multiplies anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cogtune.config.build import build
from cogtune.model.lora import merge_lora
from cogtune.model.weights import load_weights
from cogtune.model.weights.lora_formats import LORA_FILE, pairs_of, to_diffusers_lora
from tests.families import (
    FAMILIES,
    IN_DIFFUSERS,
    difference,
    diffusers_twin,
    inputs,
    network_config,
    randomised,
    run_diffusers,
)
from tests.parity import limits

pytest.importorskip("peft")


def case(family: str, folder: Path, **lora: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Our adapted model, diffusers' base model, inputs; the LoRA file is in `folder`."""
    node = network_config(family, lora=lora)
    dit = randomised(node)
    state = dit.state_dict()
    tensors, metadata = to_diffusers_lora(pairs_of(state, lora.get("lora_alpha", 1)))
    save_file(tensors, folder / LORA_FILE, metadata)
    twin = diffusers_twin(network_config(family), merge_lora(state, scale=0.0))
    return dit, twin, inputs(node, FAMILIES[family].frames, 8, 12, B=2)


def apart(dit: Any, twin: Any, x: tuple[Any, ...]) -> float:
    return difference(dit(*x), run_diffusers(twin, *x))


@pytest.mark.parametrize("family", IN_DIFFUSERS)
@torch.no_grad()
def test_load_lora_weights(family: str, tmp_path: Path, hold: Callable[..., None]) -> None:
    """The pipeline's own method; alpha 1 over rank 4, as upstream trains: four times too strong if it were lost."""
    from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin

    class Pipeline(CogVideoXLoraLoaderMixin):
        """As much of a pipeline as the loader looks at."""

        hf_device_map = None

        def __init__(self, transformer: Any) -> None:
            self.transformer = transformer
            self.components = {"transformer": transformer}

    dit, twin, x = case(family, tmp_path, r=4)
    before = run_diffusers(twin, *x)
    Pipeline(twin).load_lora_weights(str(tmp_path))
    hold("output, LoRA file through load_lora_weights", family, apart(dit, twin, x), limits.NETWORK)
    assert (run_diffusers(twin, *x) - before).abs().max() > 1e-3 * before.abs().max()


@pytest.mark.parametrize("lora", [{"r": 4, "lora_alpha": 6}, {"r": 4, "lora_alpha": 8, "layer_range": [1]}])
@torch.no_grad()
def test_load_lora_adapter(lora: dict[str, Any], tmp_path: Path) -> None:
    """Other strengths; and adapters on one layer only, which PEFT must not put on the others."""
    dit, twin, x = case("5b", tmp_path, **lora)
    twin.load_lora_adapter(str(tmp_path), weight_name=LORA_FILE)
    assert apart(dit, twin, x) <= limits.NETWORK
    adapted = {name.split(".")[1] for name in twin.state_dict() if "lora_A" in name}
    assert adapted == {str(layer) for layer in lora.get("layer_range", [0, 1])}


@torch.no_grad()
def test_a_file_that_diffusers_wrote_loads_here(tmp_path: Path) -> None:
    from peft import LoraConfig

    twin: Any = diffusers_twin(network_config("5b"), randomised(network_config("5b")).state_dict())
    torch.manual_seed(1)
    twin.add_adapter(
        LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    )
    twin.save_lora_adapter(str(tmp_path))
    dit = build(network_config("5b", lora={"r": 4}))  # strength 1/4 here, 6/4 in the file
    base = randomised(network_config("5b")).state_dict()
    wrapped = {name.replace(".original.", "."): name for name in dit.state_dict()}
    dit.load_state_dict({wrapped[name]: tensor for name, tensor in base.items()}, strict=False)
    load_weights(dit, tmp_path)
    assert apart(dit, twin, inputs(network_config("5b"), 3, 8, 12)) <= limits.NETWORK
