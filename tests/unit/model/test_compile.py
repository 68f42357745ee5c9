"""The whole network, and each layer by itself, as one graph of torch.compile."""

import shutil
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cogtune.config.schema.checkpointing import Policy
from cogtune.model.dit import DiffusionTransformer
from tests.families import FAMILIES, inputs, network_config, randomised

pytestmark = pytest.mark.heavy

Run = tuple[Tensor, dict[str, Tensor]]
LORA = {"r": 4}


@pytest.fixture(autouse=True)
def forget_graphs() -> None:
    torch._dynamo.reset()


def run(dit: DiffusionTransformer, node: dict[str, Any], batch: int) -> Run:
    """Output and gradients."""
    dit.zero_grad(set_to_none=True)
    output = dit(*inputs(node, 4, 8, 12, B=batch))
    output.square().mean().backward()
    return output.detach(), {name: p.grad for name, p in dit.named_parameters() if p.grad is not None}


def assert_equal(compiled: Run, eager: Run, tolerance: float) -> None:
    assert compiled[1].keys() == eager[1].keys()
    pairs = [(compiled[0], eager[0]), *((compiled[1][name], eager[1][name]) for name in eager[1])]
    for given, expected in pairs:
        assert float((given - expected).abs().max()) <= tolerance * float(expected.abs().max())


def node_of(family: str, lora: dict[str, Any] | None = None) -> dict[str, Any]:
    return network_config(family, lora, num_layers=1, num_frames=21)


QUICK = {
    ("2b", Policy.SELECTIVE, 2), ("5b", Policy.NONE, 1), ("5b_i2v", Policy.FULL, 2), ("1.5_5b", Policy.ATTENTION, 1),
    ("1.5_5b_i2v", Policy.SELECTIVE, 2),
}  # fmt: skip
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in product(FAMILIES, Policy, (1, 2))
]  # a second or two each on an idle machine, which makes more than a minute


@pytest.mark.parametrize(("family", "policy", "batch"), CASES)
def test_whole_network(family: str, policy: Policy, batch: int) -> None:
    node = node_of(family)
    dit = randomised(node)
    dit.checkpoint_activations = policy
    eager = run(dit, node, batch)
    dit.compile(backend="aot_eager", fullgraph=True)
    assert_equal(run(dit, node, batch), eager, 1e-5)
    with torch.no_grad():
        assert torch.isfinite(dit(*inputs(node, 4, 8, 12, B=batch))).all()


@pytest.mark.parametrize(
    ("lora", "policy", "batch"),
    [
        pytest.param(
            *case, marks=() if case in ((None, Policy.FULL, 1), (LORA, Policy.SELECTIVE, 2)) else pytest.mark.slow
        )
        for case in product((None, LORA), Policy, (1, 2))
    ],
)
def test_layer_by_layer(lora: dict[str, Any] | None, policy: Policy, batch: int) -> None:
    node = node_of("5b", lora)
    dit = randomised(node)
    dit.checkpoint_activations = policy
    eager = run(dit, node, batch)
    for layer in dit.transformer.layers:
        layer.compile(backend="aot_eager", fullgraph=True)
    assert_equal(run(dit, node, batch), eager, 1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize(
    ("lora", "whole"),
    [
        (LORA, True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((None, True), (None, False), (LORA, False))),
    ],
)
def test_inductor(lora: dict[str, Any] | None, whole: bool) -> None:
    node = node_of("5b", lora)
    dit = randomised(node)
    eager = run(dit, node, 2)
    for module in [dit] if whole else dit.transformer.layers:
        module.compile(fullgraph=True)
    assert_equal(run(dit, node, 2), eager, 1e-4)
