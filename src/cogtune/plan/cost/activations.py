"""Bytes that the network keeps for the backward pass: the sum over the tensors that its layers save.

One unit is a tensor of (batch, tokens, D) in the compute precision. docs/cost_model.md has the table.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cogtune.config.geometry import NETWORK_PREFIX
from cogtune.config.schema.checkpointing import Policy
from cogtune.plan.cost.transformer import Grid, Network

_FP32 = 4


@dataclass(frozen=True)
class Activations:
    """Bytes. ``kept``: between forward and backward pass. ``recomputed``: activations of one block that exist only during
    its backward pass (0 if everything is kept). ``passing``: temporary gradients in the backward pass of one block."""

    kept: float
    recomputed: float
    passing: float

    @property
    def peak(self) -> float:
        return self.kept + self.recomputed + self.passing


def activations(network: Network, grid: Grid, batch: int, width: int, policy: Policy) -> Activations:
    """The activations of one micro batch of ``batch`` clips. ``width``: bytes per number (bf16, fp16: 2, fp32: 4)."""
    unit = batch * grid.tokens * network.width * width
    blocks = list(_blocks(network, grid, batch, width))
    kept = sum(block.kept[policy] for block in blocks) + _ends(network, grid, batch, width)
    recomputed = max(block.everything - block.shared[policy] for block in blocks)
    # Backward pass of the MLP: the incoming gradient (1), and those of 4h after and before GELU (4 + 4).
    passing = 9.0 * unit if any(block.everything for block in blocks) else 0.0
    return Activations(kept, recomputed, passing)


@dataclass(frozen=True)
class _Block:
    """Bytes of one block. ``everything``: what its backward pass needs. By policy, ``kept``: between forward and backward
    pass; ``shared``: the kept part of ``everything``."""

    everything: float
    kept: dict[Policy, float]
    shared: dict[Policy, float]


_UNREACHED = _Block(0.0, dict.fromkeys(Policy, 0.0), dict.fromkeys(Policy, 0.0))


def _blocks(network: Network, grid: Grid, batch: int, width: int) -> Iterator[_Block]:
    """Every block. Blocks before the first trained weight keep nothing."""
    trained = {NETWORK_PREFIX + one.name for one in network.trained}
    before = any(
        NETWORK_PREFIX + f"mixins.patch_embed.{name}" in trained for name in ("proj.weight", "text_proj.weight")
    )
    embedding = NETWORK_PREFIX + "time_embed.0.weight" in trained
    reached = before or embedding
    for i in range(network.layers):
        at = f"{NETWORK_PREFIX}transformer.layers.{i}."
        modulated = embedding or f"{NETWORK_PREFIX}mixins.adaln_layer.adaLN_modulations.{i}.1.weight" in trained
        trained_here = any(name.startswith(at) for name in trained)
        reached = reached or trained_here or modulated
        yield _block(network, grid, batch, width, trained, modulated, i) if reached else _UNREACHED


def _block(network: Network, grid: Grid, batch: int, width: int, trained: set[str], modulated: bool, i: int) -> _Block:
    at = f"{NETWORK_PREFIX}transformer.layers.{i}."
    adapted = network.adapted(i)

    def trains(name: str) -> bool:
        return f"{at}{name}.weight" in trained

    units = 2.0  # inputs of the two norms: the block's input, and the sum after attention
    units += 2 * modulated  # outputs of the norms, for the gradients of their scales
    units += 2 * modulated  # both branches, for the gradients of their gates
    units += adapted or trains("attention.query_key_value")  # the modulated input of the projections
    units += 3  # projected queries, keys and values
    units += 2 * (network.qk_norm or network.rotary)  # queries and keys after norm and rotation
    units += 1  # the output of attention, which is also the input of `dense`
    units += trains("mlp.dense_h_to_4h")  # the modulated input of the MLP
    units += 4  # before GELU
    units += 4 * trains("mlp.dense_4h_to_h")  # after GELU
    low = 4 * network.rank * adapted  # adapters of q, k, v and dense: between A and B
    rows = batch * grid.tokens
    unit = rows * network.width * width
    scores = rows * network.heads * _FP32  # log-sum-exp of each row of the scores
    statistics = rows * (4 + 4 * network.heads * network.qk_norm) * width + scores  # mean and 1/std of the norms
    projection = 12 * batch * network.width * width  # shifts, scales and gates from the conditioning vector
    modulation = batch * (20 * network.width + network.embedding) * width
    everything = units * unit + rows * low * width + statistics + modulation
    return _Block(
        everything,
        kept={
            Policy.FULL: unit,
            Policy.ATTENTION: 2 * unit + scores,
            Policy.SELECTIVE: 11 * unit + scores + projection,  # q, k, v; attention; dense; 4h; the MLP's result
            Policy.NONE: everything,
        },
        shared={
            Policy.FULL: unit,
            Policy.ATTENTION: 2 * unit + scores,
            # An adapter is added to q, k and v, so these sums are recomputed; a branch is needed for its gate only.
            Policy.SELECTIVE: (6 + 3 * (not adapted) + 2 * modulated) * unit + scores + projection,
            Policy.NONE: everything,
        },
    )


def _ends(network: Network, grid: Grid, batch: int, width: int) -> float:
    """Bytes kept before the first block and after the last one."""
    trained = {one.name for one in network.trained}
    final = "mixins.final_layer.linear.weight" in trained
    video = batch * grid.video * network.width * width
    kept = batch * grid.tokens * network.width * width + video  # the output of the last block, and its norm
    if final:
        kept += 2 * video  # before and after the modulation
    if "mixins.patch_embed.proj.weight" in trained:
        patch = network.params.in_channels * math.prod(network.patch)
        kept += batch * (grid.video * patch + grid.text * network.text_width) * width
    if network.rotary:
        kept += 2 * grid.tokens * (network.width // network.heads) * _FP32  # cos and sin
    return kept
