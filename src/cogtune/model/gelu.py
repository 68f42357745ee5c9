"""GELU in its tanh form (Hendrycks and Gimpel, arXiv:1606.08415), of the widest tensor of a layer."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
_BLOCK = 2**18  # values, 1 MB: the four passes over a block find it in a core's cache


class Gelu(torch.autograd.Function):
    """Its gradient is written over the incoming one, which saves another tensor of that width: `Mlp` hands the result to
    one linear layer, so that gradient is a product's own output and nobody else reads it."""

    @staticmethod
    def forward(ctx: Any, x_BNM: Tensor) -> Tensor:
        ctx.save_for_backward(x_BNM)
        return gelu(x_BNM)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BNM: Tensor) -> Tensor:
        (x_BNM,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward.grad_input(dy_BNM, x_BNM, approximate="tanh", grad_input=dy_BNM)


def gelu(x: Tensor) -> Tensor:
    """x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3), in x's dtype; its gradient is `Gelu`'s.

    torch's kernel for CPUs spends its time in tanh. The same function is x sigmoid(2u), whose kernel is several times
    as fast; in fp32 only, since each pass rounds to the dtype.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    flat, linear = x.flatten(), torch.tensor(_LINEAR, device="cpu")
    result = torch.empty_like(flat)
    for part, y in zip(flat.split(_BLOCK), result.split(_BLOCK), strict=True):
        torch.addcmul(linear, part, part, value=_CUBIC, out=y).mul_(part).sigmoid_().mul_(part)
    return result.view_as(x)
