"""Which elements of the trained parameters this rank's optimizer updates, and in which tensors they are.

ZeRO gives the optimizer flat tensors of its own: at stages 1 and 2 a rank's part of each parameter group, at stage 3 its
part of each parameter, in sub-groups. Without ZeRO the optimizer has whole parameters or their fp32 masters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Piece:
    """Elements [begin, end) of the flattened parameter ``name``, which begin at element ``offset`` of ``holder``, a tensor
    of the optimizer."""

    name: str
    begin: int
    end: int
    holder: Tensor
    offset: int = 0

    def of(self, tensor: Tensor) -> Tensor:
        """The piece of ``tensor``, which is the holder or a state of the same shape: 1-D, to be read only."""
        return tensor.detach().reshape(-1)[self.offset : self.offset + self.end - self.begin]

    def cut(self, rank: int, ranks: int) -> "Piece | None":
        """The part of a piece that all ``ranks`` have, that is written by ``rank``; None if nothing is left for it."""
        size = -(-(self.end - self.begin) // ranks)
        begin = self.begin + rank * size
        end = min(self.end, begin + size)
        if begin >= end:
            return None
        return Piece(self.name, begin, end, self.holder, self.offset + begin - self.begin)


def pieces(engine: Any, module: nn.Module) -> list[Piece]:
    """The pieces of this rank, in the order of ``module.named_parameters()``. Without ZeRO all ranks have all of them."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not engine.zero_optimization():
        masters = unpartitioned(engine)
        return [Piece(name, 0, p.numel(), masters[p]) for name, p in trained]
    if engine.zero_optimization_partition_weights():
        return list(_of_stage_3(engine, trained))
    return list(_of_stages_1_and_2(engine, trained))


def _of_stages_1_and_2(engine: Any, trained: list[tuple[str, nn.Parameter]]) -> Iterator[Piece]:
    for name, p in trained:
        mapping: Any = getattr(p, "_hp_mapping")  # noqa: B009  # set by DeepSpeed; None if this rank has nothing of p
        if mapping is not None:
            place, begin = mapping.hp_fragment_address, mapping.lp_fragment_address.start
            holder = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            yield Piece(name, begin, begin + place.numel, holder, place.start)


def _of_stage_3(engine: Any, trained: list[tuple[str, nn.Parameter]]) -> Iterator[Piece]:
    optimizer = engine.optimizer
    for name, p in trained:
        group, offset, size = optimizer.grad_position[optimizer.get_param_id(p)]
        begin = optimizer._get_param_partition_rank(p) * size
        end = min(begin + size, p.ds_numel)  # pyright: ignore[reportAttributeAccessIssue]  # set by DeepSpeed
        if begin < end:  # the rest is padding
            yield Piece(name, begin, end, optimizer.fp32_partitioned_groups_flat[group], offset)


def unpartitioned(engine: Any) -> dict[Tensor, Tensor]:
    """Parameter -> master weight, without ZeRO; the parameter itself in fp32."""
    optimizer = engine.optimizer
    if not hasattr(optimizer, "fp32_groups"):
        return {p: p for group in optimizer.param_groups for p in group["params"]}
    pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {p: master for low, high in pairs for p, master in zip(low, high, strict=True)}


@contextmanager
def optimizer_with_parameters(engine: Any) -> Iterator[torch.optim.Optimizer]:
    """The PyTorch optimizer, with its tensors in its parameter groups: at stage 3 they are there during a step only."""
    if not engine.zero_optimization_partition_weights():
        yield engine.basic_optimizer
        return
    engine.optimizer._set_fp32_optimizer_param_groups()
    try:
        yield engine.basic_optimizer
    finally:
        engine.optimizer._clear_fp32_optimizer_param_groups()


@contextmanager
def masters_replaced(engine: Any) -> Iterator[None]:
    """Within the context the masters may be written; after it, the weights of training are made from them. Collective."""
    optimizer = engine.optimizer
    stage_3 = engine.zero_optimization_partition_weights()
    if stage_3:
        optimizer.checkpoint_event_prologue()
    yield
    if stage_3:
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        # Small weights, which stage 3 keeps whole, stay split until their first use, as in a new engine. If they were whole
        # now, the first backward pass would gather them and the forward pass not, which selective checkpointing refuses.
        optimizer.invalidate_secondary_tensor()
    elif engine.zero_optimization():
        optimizer.update_lp_params()
    else:
        for p, master in unpartitioned(engine).items():
            if p is not master:
                p.data.copy_(master.data)
