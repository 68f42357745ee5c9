"""Bytes that the network keeps for the backward pass: counted from what its own layers save, tensor by tensor.

Without checkpointing a block keeps recipes in place of what is elementwise (model/recompute.py); a block that is computed
again as a whole keeps everything for that moment.
One unit is a tensor of (batch, tokens, D) in the compute precision. docs/cost_model.md has the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cogtune.plan.cost.transformer import PREFIX, Grid, Network

_FP32 = 4


@dataclass(frozen=True)
class Activations:
    """Bytes. ``kept``: between forward and backward. ``recomputed``: of one block, while its backward runs (0 without
    checkpointing). ``passing``: gradients that exist for a moment in the backward of one block."""

    kept: float
    recomputed: float
    passing: float

    @property
    def peak(self) -> float:
        return self.kept + self.recomputed + self.passing


def activations(network: Network, grid: Grid, batch: int, width: int, checkpointing: bool) -> Activations:
    """Of one micro batch of ``batch`` clips; ``width``: bytes of the compute precision (bf16, fp16: 2, fp32: 4)."""
    unit = batch * grid.tokens * network.width * width
    blocks = list(_blocks(network, grid, batch, width, everything=checkpointing))
    ends = _ends(network, grid, batch, width)
    # Backward of the MLP: the gradient that comes in, that of 4h behind and before GELU.
    passing = 9.0 * unit if any(blocks) else 0.0
    if not checkpointing:
        return Activations(sum(blocks) + ends, 0.0, passing)
    # The recomputed block starts from its input, which is kept anyway.
    return Activations(network.layers * unit + ends, max(0.0, max(blocks) - unit), passing)


def _blocks(network: Network, grid: Grid, batch: int, width: int, everything: bool) -> Iterator[float]:
    """Of each block. What lies before the first trained weight keeps nothing."""
    trained = {PREFIX + one.name for one in network.trained}
    before = any(PREFIX + f"mixins.patch_embed.{name}" in trained for name in ("proj.weight", "text_proj.weight"))
    embedding = PREFIX + "time_embed.0.weight" in trained
    reached = before or embedding
    for i in range(network.layers):
        at = f"{PREFIX}transformer.layers.{i}."
        modulated = f"{PREFIX}mixins.adaln_layer.adaLN_modulations.{i}.1.weight" in trained
        mine = any(name.startswith(at) for name in trained)
        yield _block(network, grid, batch, width, trained, i, everything) if reached or mine or modulated else 0.0
        reached = reached or mine or modulated


def _block(network: Network, grid: Grid, batch: int, width: int, trained: set[str], i: int, everything: bool) -> float:
    at = f"{PREFIX}transformer.layers.{i}."
    adapted, rank = network.adapted(i), network.lora["r"] if network.lora else 0

    def trains(name: str) -> bool:
        return f"{at}{name}.weight" in trained

    units = 2.0  # what each of the two norms gets: the block's input, and the sum after attention
    units += 2  # each branch, for the gradient of its gate
    units += 4  # attention: q and k as projected, v, and its result, which is the input of `dense` too
    units += 4  # before GELU
    if everything:
        units += adapted or trains("attention.query_key_value")  # the normed input of the projections
        units += 2 * network.qk_norm  # q and k behind their norms
        units += trains("mlp.dense_h_to_4h")  # the normed input of the MLP
        units += 4 * trains("mlp.dense_4h_to_h")  # behind GELU
    low = 4 * rank * adapted  # q, k, v and dense: what lies between A and B
    rows = batch * grid.tokens
    statistics = (4 + 4 * network.heads * network.qk_norm) * width + network.heads * _FP32  # mean, 1/std; log-sum-exp
    modulation = batch * (20 * network.width + network.embedding) * width
    return rows * ((units * network.width + low) * width + statistics) + modulation


def _ends(network: Network, grid: Grid, batch: int, width: int) -> float:
    """In front of the first block and behind the last."""
    trained = {one.name for one in network.trained}
    final = "mixins.final_layer.linear.weight" in trained
    video = batch * grid.video * network.width * width
    kept = batch * grid.tokens * network.width * width + video  # the last block's result, and its norm
    if final:
        kept += 2 * video  # before the modulation and behind it
    if "mixins.patch_embed.proj.weight" in trained:
        p = network.params["in_channels"] * network.patch[0] * network.patch[1] * network.patch[2]
        kept += batch * (grid.video * p + grid.text * network.text_width) * width
    if network.rotary:
        kept += grid.tokens * (network.width // network.heads) * _FP32  # complex64, one for each pair of channels
    return kept
