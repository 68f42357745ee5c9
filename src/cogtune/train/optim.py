"""AdamW with an exponential moving average of the weights in its own state."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SHADOW = "shadow"


class AdamWEma(torch.optim.AdamW):
    """AdamW that also keeps a moving average of each parameter (upstream sat.ops.FusedEmaAdam).

    After step n (from 1): shadow = d shadow + (1 - d) p with d = min(ema_decay, (1 + n) / (10 + n)), or d = ema_decay
    when ``ramp`` is off. The shadow starts as p before the first step. It is stored in the optimizer's state under
    "shadow", so it is partitioned and saved with that state (by ZeRO).

    Both updates are fused and in place: no temporary tensors. n is AdamW's own count, ``state[p]["step"]``, and lives nowhere
    else, so whatever restores that state restores n. On a GPU fused AdamW keeps it in GPU memory, where reading it would wait
    for the step of every tensor. So it is read once, at the first step after a start or a load, and counted along after
    that. It is read again if something else has replaced or written it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        ema_decay: float = 0.9999,
        ramp: bool = True,
        fused: bool = True,
        **adamw: Any,
    ) -> None:
        super().__init__(params, lr=lr, fused=fused, **adamw)
        self.ema_decay = ema_decay
        self.ramp = ramp
        self._counts = dict[Tensor, _Count]()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One AdamW step, then the average. Parameters without gradient do not change."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        updated = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        # AdamW initialises only an empty state, so new shadows are added after its step.
        new_shadows = {p: p.detach().clone() for p in updated if SHADOW not in self.state.get(p, {})}
        known = {p: count for p in updated if (count := self._counts.get(p)) and count.is_of(self.state.get(p, {}))}
        super().step()
        for p, shadow in new_shadows.items():
            self.state[p][SHADOW] = shadow
        by_step: dict[int, list[Tensor]] = {}
        for p in updated:
            step = self.state[p]["step"]
            n = known[p].n + 1 if p in known else int(step)
            self._counts[p] = _Count(step, step._version, n)
            by_step.setdefault(n, []).append(p)
        for n, stepped in by_step.items():  # one n, unless a parameter had no gradient in an earlier step
            torch._foreach_lerp_([self.state[p][SHADOW] for p in stepped], stepped, 1 - self.decay_after(n))  # pyright: ignore[reportPrivateImportUsage]
        return loss

    def decay_after(self, n: int) -> float:
        """d of step n, counted from 1."""
        return min(self.ema_decay, (1 + n) / (10 + n)) if self.ramp else self.ema_decay


@dataclass(frozen=True)
class _Count:
    """``n``: the value of the counter ``step`` when it had been written ``version`` times."""

    step: Tensor
    version: int
    n: int

    def is_of(self, state: Mapping[str, Any]) -> bool:
        """Whether ``step`` is still the counter in ``state``, and nothing else has written it."""
        return state.get("step") is self.step and self.step._version == self.version


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: with weight decay, and without (biases and all parameters of norms).

    The order within a group is that of ``module.named_parameters()``; empty groups are omitted.
    """
    in_norm = {
        id(p)
        for inner in module.modules()
        if isinstance(inner, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)
        for p in inner.parameters(recurse=False)
    }
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, p in module.named_parameters():
        if p.requires_grad:
            (plain if id(p) in in_norm or name.endswith("bias") else decayed).append(p)
    groups = ({"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]
