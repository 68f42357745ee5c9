"""Bytes kept for the backward pass, against what autograd really saves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from cogtune.config.build import build
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.lora import set_trainable
from cogtune.plan.cost.activations import Activations, activations
from cogtune.plan.cost.transformer import Network
from tests.families import inputs, network_config
from tests.kernels import needs_bf16_attention

TOLERANCE = 0.15


@dataclass(frozen=True)
class Case:
    family: str
    shape: tuple[int, int, int]
    batch: int = 1
    dtype: torch.dtype = torch.float32
    lora: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> dict[str, Any]:
        return network_config(self.family, self.lora, **self.more)

    @property
    def frozen(self) -> list[str]:
        return ["all"] if self.lora else []

    def modelled(self, checkpointing: bool) -> Activations:
        network, (T, H, W) = Network(self.node, self.frozen), self.shape
        grid = network.grid(8 * H, 8 * W, 4 * (T - 1) + 1, 7)
        return activations(network, grid, self.batch, 4 if self.dtype == torch.float32 else 2, checkpointing)

    def model(self) -> DiffusionTransformer:
        model = build(self.node).to(self.dtype)
        set_trainable(model, self.frozen)
        return model


WIDE = {"hidden_size": 192, "num_attention_heads": 12}
CASES = {
    "sincos": Case("2b", (3, 8, 12), batch=2),
    "rotary": Case("5b", (3, 8, 12)),
    "rotary bf16": Case("5b", (5, 16, 16), dtype=torch.bfloat16),
    "wide bf16": Case("5b", (3, 16, 16), dtype=torch.bfloat16, more=WIDE),
    "temporal patch": Case("1.5_5b", (6, 16, 16), dtype=torch.bfloat16),
    "learned table": Case("5b_i2v", (3, 8, 12)),
    "lora sincos": Case("2b", (3, 8, 12), batch=2, lora={"r": 8}),
    "lora rotary bf16": Case("5b", (5, 16, 16), dtype=torch.bfloat16, lora={"r": 16}, more={"num_layers": 4}),
    "lora on one layer": Case("5b", (3, 8, 12), lora={"r": 4, "layer_range": [2]}, more={"num_layers": 4}),
}


def saved(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes of all storages that autograd keeps of ``run``, each once, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # alive, so that no address comes twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(size for size, _ in kept.values())


def allocated(run: Callable[[], Tensor]) -> int:
    """Bytes that ``run`` leaves allocated, beside its result: recipes hide from autograd's hooks, not from the allocator."""
    run()  # tables are made once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        output = run()
    return sum(event.self_cpu_memory_usage for event in measured.key_averages()) - output.nbytes


def named(*names: str) -> list[Any]:
    return [
        pytest.param(name, marks=needs_bf16_attention if CASES[name].dtype == torch.bfloat16 else ()) for name in names
    ]


@pytest.mark.parametrize("name", named(*CASES))
def test_kept_bytes(name: str) -> None:
    case = CASES[name]
    model, arguments = case.model(), inputs(case.node, *case.shape, B=case.batch)
    assert case.modelled(False).kept == pytest.approx(allocated(lambda: model(*arguments)), rel=TOLERANCE)
    model.checkpoint_activations = True
    assert case.modelled(True).kept == pytest.approx(saved(model, lambda: model(*arguments)), rel=TOLERANCE)


@pytest.mark.parametrize("name", named("sincos", "rotary bf16", "lora rotary bf16"))
def test_recomputed_bytes_of_one_block(name: str) -> None:
    """What a block's backward saves again, beside its input, which was kept all along."""
    case = CASES[name]
    model, (x, timesteps, context) = case.model(), inputs(case.node, *case.shape, B=case.batch)
    captured: list[tuple[Any, ...]] = []
    run_layer = model._layer

    def capture(*arguments: Any) -> Tensor:
        captured.append(arguments)
        return run_layer(*arguments)

    model._layer = capture  # type: ignore[method-assign]
    model(x, timesteps, context)
    model.checkpoint_activations = True  # so that the block keeps everything, as it does when it is computed again
    i, h_BND, *rest = captured[1]
    alone: list[Any] = [r.detach() if isinstance(r, Tensor) else r for r in rest]
    block = saved(model, lambda: run_layer(i, h_BND.detach().requires_grad_(), *alone))
    constants = rest[1].numel() * 8 if rest[1] is not None else 0  # the rotation, kept once for all blocks
    own_input = h_BND.numel() * h_BND.element_size()
    assert case.modelled(True).recomputed == pytest.approx(block - own_input - constants, rel=TOLERANCE)


def test_nothing_is_kept_before_the_first_trained_weight() -> None:
    case = CASES["lora on one layer"]
    late = Case(case.family, case.shape, lora={"r": 4, "layer_range": [3]}, more=case.more)
    early = Case(case.family, case.shape, lora={"r": 4, "layer_range": [0]}, more=case.more)
    assert late.modelled(False).kept < 0.5 * early.modelled(False).kept
