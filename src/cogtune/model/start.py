"""The model as it is before training, rebuilt from what the config says; it is never stored.

Training starts from it, sampling shows it as the "before", and trained weights are laid over it: what was frozen, and
everything under a LoRA, stands only here.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cogtune.config.build import build, params_of
from cogtune.config.schema.dit import LoraParams
from cogtune.errors import UserError
from cogtune.model.lora import draw_adapters, is_adapter, merge_lora
from cogtune.runtime.sums import check_sums, say_unchecked


@dataclass(frozen=True)
class Start:
    """How to build an untrained model.

    ``network_config``: its {target, params} node. ``seed`` decides every weight that nothing below sets. Then comes
    either ``weights`` (a path to weights in any known format), or the result ``trained`` (final/model.safetensors) of
    an earlier training that itself started from ``before``, or neither.
    """

    network_config: dict[str, Any]
    seed: int
    weights: str | None = None
    before: "Start | None" = None
    trained: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Start":
        """The inverse of `dataclasses.asdict`."""
        before = data.get("before")
        return cls(**{**data, "before": cls.from_dict(before) if before else None})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def origin(self) -> str:
        """Where the weights come from, in words."""
        if self.trained is not None:
            return f"training result {self.trained}"
        return f"weights {self.weights}" if self.weights else f"random weights, seed {self.seed}"


def initial_model(start: Start, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network before training, on the CPU, in evaluation mode; the same bits for the same ``start``, rounded to
    ``dtype``. Weights from a file never stand in memory in another type, but for the tensor that is read."""
    from cogtune.model.weights import load_weights

    # Weights of billions of parameters are not drawn first, to be overwritten all: that took minutes and as much memory.
    with torch.random.fork_rng(devices=[]), torch.device("meta" if start.weights or start.trained else "cpu"):
        torch.manual_seed(_init_seed(start.seed))
        network: nn.Module = build(start.network_config)
    if start.weights:
        network.to(dtype)
    if start.trained is not None and start.before is not None:
        _take_over(network, start, trained_model(start.before, Path(start.trained)), start.before)
    elif start.weights:
        load_weights(network, start.weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_init_seed(start.seed))
        draw_adapters(network)
    return network.to(dtype).eval()


def trained_model(start: Start, path: Path) -> nn.Module:
    """The network after training: `initial_model` with the trained parameters of ``path`` laid over it.

    ``path`` is final/model.safetensors or final/ema.safetensors of the training that began at ``start``.
    """
    network = initial_model(start)
    load_trained(network, path)
    return network


def load_trained(network: nn.Module, path: Path) -> int:
    """Overwrite the parameters that ``path`` holds; returns how many. Raises UserError for one that does not fit."""
    if not check_sums(path):
        say_unchecked(path)
    state = load_file(path)
    own = dict(network.named_parameters())
    for name, value in state.items():
        if name not in own or own[name].shape != value.shape:
            there = f"shape {tuple(own[name].shape)}" if name in own else "no such parameter"
            raise UserError(
                f"{path}: {name} has shape {tuple(value.shape)}, and the model has {there}; use the config of that run"
            )
        with torch.no_grad():
            own[name].copy_(value)
    return len(state)


def adapter_scale(network_config: dict[str, Any]) -> float | None:
    """lora_alpha / r of a network node; None without a LoRA."""
    lora = lora_of(network_config)
    return None if lora is None else lora.lora_alpha / lora.r


def lora_of(network_config: dict[str, Any]) -> LoraParams | None:
    """The adapters of a network node."""
    node = params_of(network_config).modules.get("lora_config")
    return None if node is None else params_of(node)


def _take_over(network: nn.Module, start: Start, earlier: nn.Module, before: Start) -> None:
    """Continue from ``earlier``: the same LoRA goes on; another one, or none, finds it folded into the weights."""
    state: dict[str, Tensor] = earlier.state_dict()
    scale = adapter_scale(before.network_config)
    same_lora = scale == adapter_scale(start.network_config) and _adapters(network) == _adapters(earlier)
    if scale is not None and not same_lora:
        state = merge_lora(state, scale)
    wanted = network.state_dict()
    plain = {name: name.replace(".original.", ".") for name in wanted}
    found = {name: state.get(name, state.get(plain[name])) for name in wanted}
    lacking = [name for name, value in found.items() if value is None and not is_adapter(name)]
    wrong = [name for name, value in found.items() if value is not None and value.shape != wanted[name].shape]
    if lacking or wrong:
        raise UserError(
            f"args.load: {start.trained} was trained from a network of other sizes; it lacks {lacking[:3]} and has "
            f"other shapes for {wrong[:3]}; use the network_config of the experiment that is loaded"
        )
    # `assign` shares the earlier network's memory, and an adapter that has no earlier value stays on meta.
    network.load_state_dict(wanted | {name: value for name, value in found.items() if value is not None}, assign=True)


def _adapters(network: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in network.named_parameters() if is_adapter(name)}


def _init_seed(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"init {seed}".encode()).digest()[:8], "big") >> 1
