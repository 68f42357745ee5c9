"""Putting tensor-parallel SAT checkpoints (mp_rank_00, mp_rank_01, …) together."""

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_ranks(ranks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One state dict from those of all ranks, in rank order.

    Rows of query_key_value are split within each of q, k, v; rows of dense_h_to_4h as they are; columns of dense and
    dense_4h_to_h. Everything else, biases of the latter two included, is replicated.
    """
    return {name: _merge(name, [rank[name] for rank in ranks]) for name in ranks[0]}


def _merge(name: str, pieces: list[Tensor]) -> Tensor:
    layer, _, kind = name.replace(".original.", ".").rpartition(".")
    if layer.endswith(".attention.query_key_value"):
        thirds = zip(*(piece.chunk(3) for piece in pieces), strict=True)
        return torch.cat([torch.cat(third) for third in thirds])
    if layer.endswith(".mlp.dense_h_to_4h"):
        return torch.cat(pieces)
    if layer.endswith((".attention.dense", ".mlp.dense_4h_to_h")) and kind == "weight":
        return torch.cat(pieces, dim=1)
    return pieces[0]
