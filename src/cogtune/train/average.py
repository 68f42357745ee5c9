"""Puts the moving average of the weights into the network, and the weights back, without changing a bit of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cogtune.train.engine import keeps_average
from cogtune.train.optim import SHADOW
from cogtune.train.pieces import unpartitioned


def has_average(engine: Any) -> bool:
    """Whether the optimizer keeps a moving average, and has applied a step; before that it is the weights."""
    return keeps_average(engine) and any(SHADOW in state for state in engine.basic_optimizer.state.values())


@contextmanager
@torch.no_grad()
def average_weights(engine: Any) -> Iterator[None]:
    """Within the context the network computes with the average. Collective; requires `has_average`.

    The network's weights are a rounded copy of the optimizer's masters, and after a step DeepSpeed writes them from there.
    Here it writes them from the average, each rank its part, and then again from the masters. So no copy of the weights is
    kept. If the context is left by an exception, the average stays in the network.
    """
    state = engine.basic_optimizer.state
    if not engine.zero_optimization():
        whole = unpartitioned(engine)
        _put_average(whole, state)
        yield
        _put_masters(whole, state)
        return
    write, masters = _zero_writer(engine)
    own = list(masters)
    masters[:] = [state[master].get(SHADOW, master) for master in own]
    try:
        write()
    finally:
        masters[:] = own
    yield
    write()


def _put_average(masters: Mapping[Tensor, Tensor], state: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    for p, master in masters.items():
        if SHADOW not in state.get(master, {}):
            continue  # it never had a gradient
        if p is master:
            _exchange(p, state[master][SHADOW])
        else:
            p.copy_(state[master][SHADOW])


def _put_masters(masters: Mapping[Tensor, Tensor], state: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    for p, master in masters.items():
        if p is not master:
            p.copy_(master)
        elif SHADOW in state.get(p, {}):
            _exchange(p, state[p][SHADOW])


def _exchange(one: Tensor, other: Tensor) -> None:
    """In fp32 without ZeRO the weights are the masters, so the average's place holds them meanwhile."""
    kept = one.clone()
    one.copy_(other)
    other.copy_(kept)


def _zero_writer(engine: Any) -> tuple[Callable[[], None], list[Tensor]]:
    """(writes the network's weights from the masters, the list of masters that it reads)."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        return optimizer.update_lp_params, optimizer.single_partition_of_fp32_groups

    def write() -> None:
        optimizer._partition_all_parameters()
        for i in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(i)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    return write, optimizer.fp32_partitioned_groups_flat
