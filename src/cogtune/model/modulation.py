"""Shift, scale and gate that differ between the text and the video part of one sequence.

Written as autograd functions because the obvious form (norm, slice, multiply, concatenate) keeps two more tensors of
the size of the sequence per use for the backward pass, and copies it once more.
"""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cogtune.model.recompute import Recipe


class ModulatedLayerNorm(nn.LayerNorm):
    """LayerNorm(h) * (1 + scale) + shift. Keys `weight` and `bias`, shared by text and video.

    Returns the result, and the recipe to make it again (`recompute.py`).
    """

    def forward(  # type: ignore[override]
        self, h_BND: Tensor, text_length: int, shift_B2D: Tensor, scale_B2D: Tensor
    ) -> tuple[Tensor, Recipe]:
        factor_B2D, offset_B2D = 1 + scale_B2D, shift_B2D
        if self.elementwise_affine:
            # Folded into the modulation: (x w + b)(1 + scale) + shift = x [w (1 + scale)] + [b (1 + scale) + shift]
            offset_B2D = torch.addcmul(offset_B2D, self.bias, factor_B2D)
            factor_B2D = self.weight * factor_B2D
        kept = h_BND.detach(), factor_B2D.detach(), offset_B2D.detach(), text_length, self.eps
        y_BND = _ModulatedNorm.apply(h_BND, factor_B2D, offset_B2D, text_length, self.eps)
        return y_BND, lambda: _modulated_norm(*kept)[0]


def gated_add(h_BND: Tensor, branch_BND: Tensor, gate_B2D: Tensor, text_length: int) -> Tensor:
    """h + gate * branch."""
    return _GatedAdd.apply(h_BND, branch_BND, gate_B2D, text_length)


def _slices(text_length: int) -> tuple[slice, slice]:
    return slice(None, text_length), slice(text_length, None)


def _parts(x_BND: Tensor, text_length: int) -> tuple[Tensor, ...]:
    return tuple(x_BND[:, part] for part in _slices(text_length))


def _sum_parts(x_BND: Tensor, text_length: int) -> Tensor:
    """Sum over the tokens of each part, (B, 2, D)."""
    return torch.stack([part.sum(1) for part in _parts(x_BND, text_length)], dim=1)


def _modulated_norm(
    h_BND: Tensor, factor_B2D: Tensor, offset_B2D: Tensor, text_length: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y = (h - mean) rstd * factor + offset, mean, rstd."""
    y_BND, mean_BN1, rstd_BN1 = torch.native_layer_norm(h_BND, (h_BND.shape[-1],), None, None, eps)
    for i, part in enumerate(_parts(y_BND, text_length)):
        torch.addcmul(offset_B2D[:, i : i + 1], part, factor_B2D[:, i : i + 1], out=part)
    return y_BND, mean_BN1, rstd_BN1


class _ModulatedNorm(torch.autograd.Function):
    """Keeps h, and of the norm only mean and rstd."""

    @staticmethod
    def forward(
        ctx: Any, h_BND: Tensor, factor_B2D: Tensor, offset_B2D: Tensor, text_length: int, eps: float
    ) -> Tensor:
        y_BND, mean_BN1, rstd_BN1 = _modulated_norm(h_BND, factor_B2D, offset_B2D, text_length, eps)
        ctx.save_for_backward(h_BND, mean_BN1, rstd_BN1, factor_B2D)
        ctx.text_length = text_length
        return y_BND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BND: Tensor) -> tuple[Tensor | None, ...]:
        h_BND, mean_BN1, rstd_BN1, factor_B2D = ctx.saved_tensors
        need_h, need_factor, need_offset = needed = ctx.needs_input_grad[:3]
        dh = torch.empty_like(h_BND) if need_h else None
        dfactor, doffset = (torch.empty_like(factor_B2D) if need else None for need in (need_factor, need_offset))
        # Each part of each sample has one factor for all its tokens, so to it the norm is an ordinary LayerNorm with that
        # weight, and torch's kernel gives all three gradients in one pass.
        for b, (i, part) in product(range(len(h_BND)), enumerate(_slices(ctx.text_length))):
            found = torch.ops.aten.native_layer_norm_backward(
                dy_BND[b, part],
                h_BND[b, part],
                h_BND.shape[-1:],
                mean_BN1[b, part],
                rstd_BN1[b, part],
                factor_B2D[b, i],
                factor_B2D[b, i],
                needed,
            )
            if dh is not None:
                dh[b, part] = found[0]
            if dfactor is not None:
                dfactor[b, i] = found[1]
            if doffset is not None:
                doffset[b, i] = found[2]
        return dh, dfactor, doffset, None, None


class _GatedAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_BND: Tensor, branch_BND: Tensor, gate_B2D: Tensor, text_length: int) -> Tensor:
        y_BND = torch.empty_like(h_BND)
        pairs = zip(*(_parts(x, text_length) for x in (h_BND, branch_BND, y_BND)), strict=True)
        for i, (h, branch, y) in enumerate(pairs):
            torch.addcmul(h, branch, gate_B2D[:, i : i + 1], out=y)
        ctx.save_for_backward(branch_BND, gate_B2D)
        ctx.text_length = text_length
        return y_BND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BND: Tensor) -> tuple[Tensor | None, ...]:
        branch_BND, gate_B2D = ctx.saved_tensors
        dbranch = dgate = None
        if ctx.needs_input_grad[1]:
            dbranch = torch.empty_like(dy_BND)
            for i, part in enumerate(_slices(ctx.text_length)):
                torch.mul(dy_BND[:, part], gate_B2D[:, i : i + 1], out=dbranch[:, part])
        if ctx.needs_input_grad[2]:
            dgate = _sum_parts(branch_BND * dy_BND, ctx.text_length)
        return dy_BND, dbranch, dgate, None
