"""The limits of `limits.py`: as wide as rounding asks for, and narrow enough for small faults to be seen."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cogtune.model import blocks, embeddings, positions
from tests.parity import limits
from tests.parity.rounding import Rounding
from tests.parity.upstream import cases, ours

LARGEST_CASES = [case for case in cases.DITS if case[1:3] in (("plain", 3), ("plain", 4))]
QUIET_CASES = [case for case in cases.DITS if case[1] == "quiet"]


def network_rounding() -> dict[str, float]:
    found: dict[str, float] = {}
    for seed, case in enumerate(LARGEST_CASES + QUIET_CASES):
        dit = ours.network(case)
        with Rounding(seed):
            errors = ours.network_errors(case, dit)
        found = {what: max(error, found.get(what, 0.0)) for what, error in errors.items()}
    return found


def vae_rounding() -> float:
    with Rounding(0):
        return max(ours.vae_errors().values())


def trajectory_rounding() -> float:
    """Of the network only: a sampler's own sums and products are of two numbers, which IEEE 754 fixes."""

    def toy(*arguments: Tensor, **more: Any) -> Tensor:
        with rounding:
            return cases.toy(*arguments, **more)

    rounding = Rounding(0)
    return max(ours.trajectory_error(name, toy) for name in cases.sampler_nodes())


def test_each_limit_is_what_rounding_otherwise_gives() -> None:
    network = network_rounding()
    for limit, drawn in (
        (limits.NETWORK, network["output"]),
        (limits.GRADIENTS, network["gradients"]),
        (limits.VAE, vae_rounding()),
        (limits.TRAJECTORY, trajectory_rounding()),
    ):
        assert drawn < limit < 10 * drawn, f"drawn {drawn:.1e}, limit {limit:.0e}"
        assert limit <= 5e-6


NORMS = [
    *(f"transformer.layers.{i}.{name}" for i in (0, 1) for name in ("input_layernorm", "post_attention_layernorm")),
    *(f"mixins.adaln_layer.{part}_layernorm_list.{i}" for i in (0, 1) for part in ("query", "key")),
    "transformer.final_layernorm",
    "mixins.final_layer.norm_final",
]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("case", QUIET_CASES, ids=lambda case: case[0])
def test_an_epsilon_is_seen(case: ours.Case, name: str) -> None:
    dit = ours.network(case)
    norm: Any = dit.get_submodule(name)
    norm.eps = {1e-5: 1e-6, 1e-6: 1e-5}[norm.eps]
    error = ours.network_errors(case, dit)
    assert error["output"] > 10 * limits.NETWORK
    assert error["gradients"] > 10 * limits.GRADIENTS


@pytest.mark.parametrize("pair", range(8))
@pytest.mark.parametrize("case", [case for case in LARGEST_CASES if case[0] != "2b"], ids=lambda case: case[0])
def test_a_rotary_frequency_is_seen(case: ours.Case, pair: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair of 8 turns 1.5 times as fast; the next frequency of an axis is 21 or 100 times as slow."""
    right = positions.rotary_3d

    def wrong(*arguments: Any) -> Tensor:
        angle_NC = right(*arguments).clone()
        angle_NC[:, pair] *= 1.5
        return angle_NC

    monkeypatch.setattr(positions, "rotary_3d", wrong)
    error = ours.network_errors(case, ours.network(case))
    assert error["output"] > limits.NETWORK
    assert error["gradients"] > limits.GRADIENTS


@pytest.mark.parametrize("case", LARGEST_CASES, ids=lambda case: case[0])
def test_gelu_by_erf_is_seen(case: ours.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = F.gelu
    monkeypatch.setattr(blocks.F, "gelu", lambda x, approximate: exact(x))
    error = ours.network_errors(case, ours.network(case))
    assert error["output"] > limits.NETWORK
    assert error["gradients"] > limits.GRADIENTS


@pytest.mark.parametrize("k", [0, 11, 23])
def test_a_timestep_frequency_is_seen(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 24 is 1e-5 too high: at timestep 999 the first is 0.01 rad ahead."""
    right = torch.exp

    def wrong(x: Tensor) -> Tensor:
        y = right(x)
        y[k] *= 1 + 1e-5
        return y

    monkeypatch.setattr(embeddings.torch, "exp", wrong)
    assert ours.timestep_ulps() > limits.ANGLE_ULPS
