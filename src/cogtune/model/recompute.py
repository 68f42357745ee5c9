"""What is cheap to make again is not kept for the backward pass.

A transformer layer keeps about 20 tensors of its input's size. Eight of them are elementwise functions of others that
are kept anyway: the normed input of a linear layer, queries and keys after norm and rotation, the MLP after its GELU.
Inside `recomputed` autograd keeps a recipe in their place and runs it when the gradient needs the values
(docs/cost_model.md counts them; `python -m bench.model` measures a step against diffusers).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Recipe = Callable[[], Tensor]


@dataclass
class _Result:
    """One run of a recipe for all operations that would have kept the tensor (q, k and v read one normed input)."""

    again: Recipe
    uses: int = 0
    left: int = 0
    value: Tensor | None = None

    def take(self) -> Tensor:
        if self.value is None:
            self.value, self.left = self.again(), self.uses
        found = self.value
        self.left -= 1
        if not self.left:
            self.value = None
        return found


class _Kept(NamedTuple):
    result: _Result
    shape: torch.Size
    stride: tuple[int, ...]


def recomputed(*pairs: tuple[Tensor, Recipe], enabled: bool = True) -> AbstractContextManager[Any]:
    """While active, no operation keeps these tensors (or a view on all of one) for the backward pass.

    Each comes with a recipe for the same values in the same memory layout. A recipe holds activations only, never a
    parameter: ZeRO-3 takes those away between forward and backward. Only the innermost hooks of autograd are asked, so
    this is to be off inside activation checkpointing.
    """
    if not (enabled and torch.is_grad_enabled()):
        return nullcontext()
    results = {(tensor.data_ptr(), tensor.numel()): _Result(again) for tensor, again in pairs}

    def pack(saved: Tensor) -> Tensor | _Kept:
        result = results.get((saved.data_ptr(), saved.numel()))
        if result is None:
            return saved
        result.uses += 1
        return _Kept(result, saved.shape, saved.stride())

    def unpack(kept: Tensor | _Kept) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept.result.take().as_strided(kept.shape, kept.stride)

    return saved_tensors_hooks(pack, unpack)
