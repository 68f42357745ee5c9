"""Group `optimizer`: one step of AdamW over fp32 weights, with and without the moving average; `AdamWEma` is sft.yaml's."""

from collections.abc import Callable

import torch
from torch import nn

from bench.gpu.bench import Bench
from bench.gpu.results import Row
from cogtune.train.optim import AdamWEma

_PARAMETERS = 500_000_000
_TINY = 1_000_000
_TENSORS = 50


def run(bench: Bench) -> None:
    count = _TINY if bench.tiny else _PARAMETERS
    makers: dict[tuple[str, str], Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
        ("AdamW", "torch, one tensor at a time"): lambda p: torch.optim.AdamW(p, foreach=False),
        ("AdamW", "torch, foreach"): lambda p: torch.optim.AdamW(p, foreach=True),
        ("AdamW", "torch, fused"): lambda p: torch.optim.AdamW(p, fused=True),
        ("AdamW with average", "cogtune"): lambda p: AdamWEma(p),
    }
    for (case, side), make in makers.items():
        with bench.fresh():
            shape = (count // _TENSORS,)
            parameters = [nn.Parameter(torch.zeros(shape, device=bench.device)) for _ in range(_TENSORS)]
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 1e-3)
            row = Row("optimizer", f"{count / 1e6:,.0f} M", case, side, None, "parameters", count)
            bench.time(row, make(parameters).step)
