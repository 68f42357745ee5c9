"""The state of an optimizer in the form in which a checkpoint has it: by parameter, whatever tensors ZeRO gave it.

Three kinds of state: floating-point tensors of the shape of what they belong to (moments, averages) are cut like it; single numbers (the
step count) are in the record, for each parameter; all others are kept whole, and fit only an optimizer with the same
tensors (the same stage and number of ranks; at stage 0 any number).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cogtune.errors import UserError
from cogtune.train.pieces import Piece

_OF_THIS_RUN = {"params", "fused", "foreach", "capturable", "differentiable"}
"""Values of parameter groups that say how a run computes, not what."""


@dataclass
class LocalState:
    """What this rank's optimizer keeps. ``tensors``: state -> its tensor of each of ``pieces``, 1-D; ``scalars``:
    parameter -> single numbers; ``whole``: name -> tensor that cannot be cut; ``whole_keys``: parameter -> its states
    there; ``groups``: values of the parameter groups."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    scalars: dict[str, dict[str, Any]] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    whole_keys: dict[str, list[str]] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)


def collect(optimizer: torch.optim.Optimizer, held: list[Piece], written: list[Piece]) -> LocalState:
    """The state of the pieces ``written``, which are parts of those ``held``; the tensors are the optimizer's own. Raises
    UserError for a state that cannot be stored."""
    local = LocalState(groups=[_plain(group) for group in optimizer.param_groups])
    parts = {id(holder): its for holder, its in by_holder(written)}
    for holder, its_pieces in by_holder(held):
        for key, value in optimizer.state.get(holder, {}).items():
            if is_single(key, value, holder):
                for piece in its_pieces:
                    local.scalars.setdefault(piece.name, {})[key] = _packed(optimizer, key, value)
            elif type(value) not in (Tensor, torch.nn.Parameter):
                raise _unsupported(optimizer, key, value)
            elif value.shape == holder.shape and value.is_floating_point():  # integers are quantised in blocks
                for piece in parts.get(id(holder), []):
                    local.tensors.setdefault(key, {})[piece.name] = piece.of(value)
            else:
                local.whole[whole_name(key, its_pieces)] = value.detach()
                for piece in its_pieces:
                    local.whole_keys.setdefault(piece.name, []).append(key)
    return local


def by_holder(pieces: list[Piece]) -> Iterator[tuple[Tensor, list[Piece]]]:
    """Each tensor of the optimizer with its pieces."""
    grouped: dict[int, list[Piece]] = {}
    for piece in pieces:
        grouped.setdefault(id(piece.holder), []).append(piece)
    for its_pieces in grouped.values():
        yield its_pieces[0].holder, its_pieces


def is_single(key: str, value: Any, holder: Tensor) -> bool:
    """Whether a state is a number, not a tensor of its parameter's shape."""
    if not torch.is_tensor(value):
        return value is None or isinstance(value, bool | int | float | str)
    return value.numel() == 1 and (key == "step" or value.shape != holder.shape)


def whole_name(key: str, pieces: list[Piece]) -> str:
    """The name in a checkpoint of a state that cannot be cut: it says which elements its tensor has."""
    places = json.dumps([[piece.name, piece.begin, piece.end, piece.offset] for piece in pieces])
    return f"whole/{key}/{hashlib.sha256(places.encode()).hexdigest()[:16]}"


def restore(
    optimizer: torch.optim.Optimizer,
    state: Mapping[Tensor, dict[str, Any]],
    groups: list[dict[str, Any]],
) -> None:
    """Give the optimizer its ``state`` (holder -> key -> value) and the values of its parameter groups."""
    numbers = {p: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    new_groups = list[dict[str, Any]]()
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        values = {key: _unpacked(value, group.get(key)) for key, value in saved.items()}
        new_groups.append(group | values | {"params": [numbers[p] for p in group["params"]]})
    by_number = {numbers[holder]: values for holder, values in state.items()}
    optimizer.load_state_dict({"state": by_number, "param_groups": new_groups})
    for holder, values in state.items():
        for key, value in values.items():
            present = optimizer.state[holder][key]
            if key != "step" and torch.is_tensor(value) and present.dtype != value.dtype:
                optimizer.state[holder][key] = value.to(
                    present.device
                )  # PyTorch casts all states to the parameter's type


def unpacked(value: Any) -> Any:
    """A single number of `LocalState.scalars`, as the optimizer has it."""
    return _unpacked(value, None)


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in group.items() if key not in _OF_THIS_RUN}
    return {key: _pack(value) for key, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return (
        value is None or isinstance(value, bool | int | float | str) or (torch.is_tensor(value) and value.numel() == 1)
    )


def _packed(optimizer: torch.optim.Optimizer, key: str, value: Any) -> Any:
    packed = _pack(value)
    if isinstance(packed, dict) and packed["dtype"] not in _DTYPES:
        raise _unsupported(optimizer, key, value)
    return packed


def _pack(value: Any) -> Any:
    """JSON for a number or a tensor of one."""
    if torch.is_tensor(value):
        return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "value": value.item()}
    return [_pack(item) for item in value] if isinstance(value, list | tuple) else value


_DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
}


def _unpacked(value: Any, like: Any) -> Any:
    if isinstance(value, dict):
        device = like.device if torch.is_tensor(like) else None
        return torch.full(value["shape"], value["value"], dtype=_DTYPES[value["dtype"]], device=device)
    if isinstance(value, list):
        items = [_unpacked(item, None) for item in value]
        return tuple(items) if isinstance(like, tuple) else items
    return value


def _unsupported(optimizer: torch.optim.Optimizer, key: str, value: Any) -> UserError:
    return UserError(
        f"deepspeed.optimizer.type: {type(optimizer).__name__} keeps a state {key!r} of type {type(value).__name__}, which a "
        f"checkpoint cannot store; expected numbers and plain tensors. Use another optimizer"
    )
