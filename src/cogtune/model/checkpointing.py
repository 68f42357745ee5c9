"""Activation checkpointing: which activations a layer keeps, and which the backward pass recomputes.

The policy is set by `args.checkpoint_activations`. Gradients are bit-identical for all policies, because the same
operations run again on the same values. `docs/cost_model.md` states the memory of each policy; `python -m bench.model`
measures the time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from cogtune.config.schema.checkpointing import Policy

aten = torch.ops.aten
ATTENTION = frozenset(
    {
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_fused_attention_overrideable.default,
    }
)
"""The operators of `F.scaled_dot_product_attention`, without the unfused one, which would keep N x N scores."""
PRODUCTS = frozenset({aten.mm.default, aten.addmm.default})
"""The operators of a linear layer."""


def run(
    policy: Policy, layer: Callable[..., Tensor], *inputs: Any, adapter_rank: int | None, has_dropout: bool
) -> Tensor:
    """`layer(*inputs)`, keeping activations for the backward pass according to ``policy``.

    ``adapter_rank``: r of the LoRA, whose products are not kept; None without one. ``has_dropout``: the layer draws
    random numbers, which must be the same in the recomputation.
    """
    if policy is Policy.NONE or not torch.is_grad_enabled():
        return layer(*inputs)
    selective: dict[str, Any] = {}
    if policy is not Policy.FULL:
        keeps = partial(_keeps, policy is Policy.SELECTIVE, adapter_rank)
        selective = {"context_fn": partial(create_selective_checkpoint_contexts, keeps)}
    return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=has_dropout, **selective)


def _keeps(
    products: bool, adapter_rank: int | None, context: object, op: object, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    """Whether the result of an operation is kept.

    Products of a LoRA are not kept: x A and (x A) B need r / D of the layer's time, but the second one as much memory
    (17 GB in all layers of 5B at 49 x 480 x 720).
    """
    kept = op in ATTENTION or (products and op in PRODUCTS and adapter_rank not in _inner_and_outer(args))
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _inner_and_outer(args: tuple[Any, ...]) -> torch.Size:
    """(K, N) of a product (M, K) x (K, N): the shape of its last argument."""
    return args[-1].shape
