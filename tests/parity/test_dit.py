"""The transformer against diffusers' CogVideoXTransformer3DModel: small twins of every family, random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cogtune.checkpoints.names import POSITIONS
from cogtune.config.build import build, params_of
from cogtune.model.lora import merge_lora, set_trainable
from cogtune.model.weights.diffusers import config_json, from_diffusers, to_diffusers
from tests.families import (
    FAMILIES,
    IN_DIFFUSERS,
    TEXT,
    difference,
    diffusers_twin,
    full_size,
    inputs,
    network_config,
    randomised,
    run_diffusers,
)
from tests.kernels import needs_bf16_attention
from tests.parity import limits

Hold = Callable[[str, str, float, float], None]


def sizes(family: str) -> list[tuple[int, int, int, int]]:
    """(T, H, W, B): the native size, a batch, fewer frames, and, where positions allow it, other sizes."""
    row = FAMILIES[family]
    if row.position_params.adds_table:
        one_grid = [(row.frames, 8, 12, 1), (row.frames, 8, 12, 3)]
        # With fewer frames diffusers leaves a learned table out: see below.
        return one_grid + ([(2, 8, 12, 2), (1, 8, 12, 1)] if row.position_params.computed else [])
    least = row.patch_frames
    return [
        (4, 8, 12, 1),
        (4, 8, 12, 3),
        (least, 8, 12, 2),
        (2, 6, 4, 2),
        (4, 10, 20, 1),
        (least, 4, 2, 3),
        (6, 2, 26, 1),
    ]


@pytest.mark.parametrize("family", IN_DIFFUSERS)
@torch.no_grad()
def test_output(family: str, hold: Hold) -> None:
    node = network_config(family)
    dit = randomised(node)
    twin: Any = diffusers_twin(node, dit.state_dict())
    for size in sizes(family):
        x = inputs(node, *size)
        hold("output", family, difference(dit(*x), run_diffusers(twin, *x)), limits.NETWORK)


@torch.no_grad()
def test_the_last_norms_epsilon_is_not_that_of_diffusers() -> None:
    node = network_config("5b")
    dit = randomised(node)
    twin: Any = diffusers_twin(node, dit.state_dict())
    twin.norm_out.norm.eps = 1e-5  # as diffusers makes it
    x = inputs(node, 4, 8, 12)
    assert limits.NETWORK < difference(dit(*x), run_diffusers(twin, *x)) < 1e-5


@pytest.mark.parametrize("family", IN_DIFFUSERS)
@torch.no_grad()
def test_output_with_adapters(family: str, hold: Hold) -> None:
    node = network_config(family, lora={"r": 4, "lora_alpha": 2})
    dit = randomised(node)
    twin = diffusers_twin(network_config(family), merge_lora(dit.state_dict(), scale=0.5))
    x = inputs(node, FAMILIES[family].frames, 8, 12, B=2)
    hold("output with LoRA", family, difference(dit(*x), run_diffusers(twin, *x)), limits.NETWORK)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def run_backward(given: Tensor, expected: Tensor) -> None:
    direction = torch.randn_like(given)
    given.backward(direction)
    expected.backward(direction)


def worst_relative(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest difference as a share of a gradient's norm, above a floor: without rotation the key norm's bias has no
    gradient but noise."""
    assert set(theirs) == set(ours)
    floor = 1e-2 * max(float(gradient.norm()) for gradient in ours.values())
    return max(float((ours[name] - theirs[name]).norm() / (ours[name].norm() + floor)) for name in ours)


@pytest.mark.parametrize("family", IN_DIFFUSERS)
def test_gradients(family: str, hold: Hold) -> None:
    node = network_config(family)
    dit = randomised(node)
    twin: Any = diffusers_twin(node, dit.state_dict())
    x = inputs(node, FAMILIES[family].frames, 8, 12, B=2)
    run_backward(dit(*x), run_diffusers(twin, *x))
    theirs, ours = gradients(twin), gradients(dit)
    if "patch_embed.pos_embedding" in twin.state_dict():  # a buffer there; the text and video rows' own gradient here
        theirs["patch_embed.pos_embedding"] = ours[POSITIONS]
    hold("gradients", family, worst_relative(ours, from_diffusers(theirs)), limits.GRADIENTS)


@pytest.mark.parametrize("family", IN_DIFFUSERS)
def test_gradients_of_adapters(family: str, hold: Hold) -> None:
    """By the chain rule from diffusers' gradients of the weights that the adapters are folded into."""
    node = network_config(family, lora={"r": 4, "lora_alpha": 2})
    dit = randomised(node)
    set_trainable(dit, ["all"])
    leaves = {name: p.detach().requires_grad_(p.requires_grad) for name, p in dit.named_parameters()}
    merged = merge_lora(dit.state_dict() | leaves, scale=0.5)
    twin = diffusers_twin(network_config(family), {name: weight.detach() for name, weight in merged.items()})
    x = inputs(node, FAMILIES[family].frames, 8, 12, B=2)
    run_backward(dit(*x), run_diffusers(twin, *x))
    adapted = {name: weight for name, weight in merged.items() if weight.grad_fn}
    of_weights = from_diffusers(gradients(twin))
    torch.autograd.backward(list(adapted.values()), [of_weights[name] for name in adapted])
    theirs = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    hold("gradients of LoRA", family, worst_relative(gradients(dit), theirs), limits.GRADIENTS)


@torch.no_grad()
def test_learned_positions_with_fewer_frames() -> None:
    """diffusers adds a sine-cosine table there instead of the learned one; told that the model is that short, it agrees."""
    node, T = network_config("5b_i2v"), 2
    dit = randomised(node)
    state = dict(dit.state_dict())
    state[POSITIONS] = state[POSITIONS][:, : TEXT + T * 8 * 12 // 4]
    twin = diffusers_twin(network_config("5b_i2v", num_frames=4 * T - 3), state)
    x = inputs(node, T, 8, 12, B=2)
    assert difference(dit(*x), run_diffusers(twin, *x)) <= limits.NETWORK


@pytest.mark.parametrize("family", ["2b", "5b_i2v"])
@pytest.mark.parametrize("size", [(1, 8, 12, 2), (2, 8, 12, 1), (2, 6, 4, 2), (3, 4, 6, 1), (1, 2, 2, 3)])
@torch.no_grad()
def test_a_stored_table_is_taken_from_its_front(family: str, size: tuple[int, int, int, int]) -> None:
    """Upstream's rule at every size, which diffusers has not: it computes a sine-cosine table for the size instead, or
    refuses. In closed form: its network without positions, and the first rows of our table added to the tokens."""
    node = network_config(family)
    dit = randomised(node)
    x = inputs(node, *size)
    T, H, W, _ = size
    rows = dit.state_dict()[POSITIONS][:, : TEXT + T * H * W // 4]
    twin: Any = diffusers_twin(node, dit.state_dict())
    twin.patch_embed.use_positional_embeddings = twin.patch_embed.use_learned_positional_embeddings = False
    twin.patch_embed.register_forward_hook(lambda module, given, tokens: tokens + rows)
    assert difference(dit(*x), run_diffusers(twin, *x)) <= limits.NETWORK


@torch.no_grad()
def test_at_another_size_diffusers_makes_another_sine_cosine_table() -> None:
    node = network_config("2b")
    dit = randomised(node)
    x = inputs(node, 2, 6, 4)
    assert difference(dit(*x), run_diffusers(diffusers_twin(node, dit.state_dict()), *x)) > 1e-3


@needs_bf16_attention
@pytest.mark.parametrize("family", IN_DIFFUSERS)
@torch.no_grad()
def test_bf16_is_as_near_to_fp32_as_diffusers_is(family: str, hold: Hold) -> None:
    node = network_config(family)
    dit = randomised(node)
    twin = diffusers_twin(node, dit.state_dict())
    x, timesteps, context = inputs(node, FAMILIES[family].frames, 8, 12, B=3)
    exact, exact_theirs = dit(x, timesteps, context), run_diffusers(twin, x, timesteps, context)
    ours = dit.bfloat16()(x, timesteps, context).float()
    theirs = run_diffusers(twin.bfloat16(), x.bfloat16(), timesteps, context.bfloat16()).float()
    share = (ours - exact).norm() / (theirs - exact_theirs).norm()
    hold("bf16 error, in units of diffusers' own", family, float(share), 1.1)


@pytest.mark.parametrize("family", IN_DIFFUSERS)
def test_full_size_keys_map_one_to_one(family: str) -> None:
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

    node = full_size(family)
    params = params_of(node)
    with torch.device("meta"):
        dit, twin = build(node), CogVideoXTransformer3DModel(**FAMILIES[family].diffusers or {})
    given = {key: tuple(tensor.shape) for key, tensor in to_diffusers(dit.state_dict(), params).items()}
    assert given == {key: tuple(tensor.shape) for key, tensor in twin.state_dict().items()}
    config = config_json(params)
    assert {key: twin.config[key] for key in config if key != "_class_name"} | {
        "_class_name": "CogVideoXTransformer3DModel"
    } == config
