"""Gives an engine the state of a checkpoint: each rank reads the ranges that its optimizer updates."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints.header import Stored
from cogtune.checkpoints.training import MASTER, Ranges, Record
from cogtune.errors import UserError
from cogtune.model.weights.read import DTYPES, read, read_into
from cogtune.train.engine import trained_shapes
from cogtune.train.optimizer_state import by_holder, restore, unpacked, whole_name
from cogtune.train.pieces import Piece, masters_replaced, optimizer_with_parameters, pieces

_COUNTERS = ("global_steps", "global_samples", "skipped_steps")


def engine_counters(engine: Any) -> dict[str, Any]:
    """DeepSpeed's counters of steps, and the loss scale of fp16, as values for JSON."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    scale = {key: value for key, value in vars(scaler).items() if _is_number(value)} if scaler is not None else {}
    return {name: getattr(engine, name) for name in _COUNTERS} | {"loss_scaler": scale}


def restore_engine(engine: Any, folder: Path, record: Record) -> None:
    """Load the checkpoint in ``folder``, whose files are verified. Raises UserError if it is of another network, or has
    states that cannot be cut for this number of ranks and stage. Collective."""
    module = engine.module
    shapes = {name: list(shape) for name, shape in trained_shapes(module).items()}
    if shapes != record.shapes:
        differing = sorted(
            name for name in shapes.keys() | record.shapes if shapes.get(name) != record.shapes.get(name)
        )
        raise UserError(f"{folder}: is of another network; it differs in {', '.join(differing[:3])}")
    ranges, own = Ranges(folder, record), pieces(engine, module)
    with masters_replaced(engine):
        for piece in own:
            _fill(piece, piece.holder.data, ranges.elements(MASTER, piece.name, piece.begin, piece.end))
    with optimizer_with_parameters(engine) as optimizer:
        state = {holder: _state_of(holder, its, ranges, record, folder) for holder, its in by_holder(own)}
        restore(optimizer, {holder: values for holder, values in state.items() if values}, record.groups)
    if hasattr(engine.optimizer, "_hp_optimizer_states_linked"):
        engine.optimizer._hp_optimizer_states_linked = False  # ZeRO 1 and 2 keep views of the state
    for name in _COUNTERS:
        setattr(engine, name, record.counters[name])
    engine.micro_steps = engine.global_steps * engine.gradient_accumulation_steps()
    if (scaler := getattr(engine.optimizer, "loss_scaler", None)) is not None:
        vars(scaler).update(record.counters["loss_scaler"])


def _state_of(holder: Tensor, its: list[Piece], ranges: Ranges, record: Record, folder: Path) -> dict[str, Any]:
    """The optimizer's state of one of its tensors; empty if it has none yet."""
    scalars = {piece.name: record.scalars.get(piece.name) for piece in its}
    values = next(iter(scalars.values()))
    dtypes = {name: {ranges.dtype(name, piece.name) for piece in its} for name in record.states}
    if any(other != values for other in scalars.values()) or any(len(kinds) > 1 for kinds in dtypes.values()):
        raise UserError(
            f"{folder}: the optimizer updated some of its parameters in fewer steps than others, and this run updates them "
            f"together; resume with {record.ranks} ranks and the ZeRO stage of that run"
        )
    state = {key: unpacked(value) for key, value in (values or {}).items()}
    for name, (dtype,) in dtypes.items():
        if dtype is None:
            continue
        # Elements between the pieces are padding, which ZeRO adds to a tensor of the optimizer.
        state[name] = torch.zeros_like(holder, dtype=DTYPES[dtype], requires_grad=False)
        for piece in its:
            _fill(piece, state[name], ranges.elements(name, piece.name, piece.begin, piece.end))
    return state | _whole_states(its, ranges, record, folder)


def _whole_states(its: list[Piece], ranges: Ranges, record: Record, folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key in sorted({key for piece in its for key in record.whole_keys.get(piece.name, [])}):
        name = whole_name(key, its)
        if name not in record.whole:
            raise UserError(
                f"{folder}: the optimizer's state {key!r} cannot be cut for another number of ranks or another ZeRO stage; "
                f"resume with {record.ranks} ranks and the stage of that run"
            )
        state[key] = read(ranges.whole(name))
    return state


def _fill(piece: Piece, tensor: Tensor, places: Iterable[Stored]) -> None:
    """Read the elements of ``piece`` into ``tensor``, which has its holder's shape."""
    contiguous = tensor.is_contiguous()
    flat, at = tensor.view(-1) if contiguous else tensor.reshape(-1), piece.offset
    for place in places:
        count = place.shape[0]
        part = flat[at : at + count]
        if part.device.type == "cpu":
            read_into(place, part, finite=False)
        else:
            part.copy_(read(place, finite=False))
        at += count
    if not contiguous:
        tensor.copy_(flat.view(tensor.shape))


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)
