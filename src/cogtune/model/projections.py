"""Queries, keys and values from one layer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class QueryKeyValue(nn.Linear):
    """Linear D -> 3D whose rows are [q; k; v]. Three products, so that each result is contiguous for its norm."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 3 * hidden_size)

    def forward(self, h_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _ThreeProducts.apply(h_BND, self.weight, self.bias)


class _ThreeProducts(torch.autograd.Function):
    """Keeps the weight itself and no part of it: ZeRO-3 empties parameters after their forward, and a part would hold
    the memory. The gradient of h is summed inside the products, that of the weight is written in place."""

    @staticmethod
    def forward(ctx: Any, h_BND: Tensor, weight_ED: Tensor, bias_E: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(h_BND if ctx.needs_input_grad[1] else None, weight_ED)
        return tuple(F.linear(h_BND, *part) for part in zip(weight_ED.chunk(3), bias_E.chunk(3), strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dy_BND: Tensor) -> tuple[Tensor | None, ...]:
        h_BND, weight_ED = ctx.saved_tensors
        need_h, need_weight, need_bias = ctx.needs_input_grad
        dy_MD = [dy.flatten(0, 1) for dy in dy_BND]
        dh = dweight = dbias = None
        if need_h:
            first, *others = zip(dy_MD, weight_ED.chunk(3), strict=True)
            dh = torch.mm(*first)
            for pair in others:
                torch.addmm(dh, *pair, out=dh)
            dh = dh.view_as(dy_BND[0])
        if need_weight:
            dweight = torch.empty_like(weight_ED)
            for dy, rows in zip(dy_MD, dweight.chunk(3), strict=True):
                torch.mm(dy.T, h_BND.flatten(0, 1), out=rows)
        if need_bias:
            dbias = torch.cat([dy.sum(0) for dy in dy_MD])
        return dh, dweight, dbias
