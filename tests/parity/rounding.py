"""Monte Carlo arithmetic (Parker 1997): what rounding otherwise gives, without another processor."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

UNIT_ROUNDOFF = 2.0**-24  # of fp32


class Rounding(TorchDispatchMode):
    """Inside it, every fp32 tensor that an operation reads or makes is multiplied by 1 + u xi, xi uniform in [-1, 1].

    A sum of n terms is then off by about u sqrt(n) terms, as it is in another order, and a library function by a unit in
    its last place. ``seed`` names the draw.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._draws = torch.Generator().manual_seed(seed)

    def _rounded(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        xi = 2 * torch.rand(value.shape, generator=self._draws, dtype=torch.float64) - 1
        return (value.double() * (1 + UNIT_ROUNDOFF * xi)).float()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(argument.alias_info is not None for argument in func._schema.arguments):
            return func(*args, **kwargs)  # a view, or written in place
        found = func(*tree_map(self._rounded, args), **tree_map(self._rounded, kwargs))
        return tree_map(self._rounded, found)
