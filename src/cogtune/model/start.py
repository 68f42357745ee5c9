"""The model before training, rebuilt from the config; it is never stored.

Training starts from it, and sampling uses it as the control "base". Trained weights are loaded over it: frozen weights,
and the weights under a LoRA, come only from here.
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
    """The initial weights of a model.

    ``network_config``: its {target, params} node. ``seed``: for the weights that are drawn at random. The other weights
    are from ``weights`` (a path to weights in any supported format), or from the result ``trained``
    (final/model.safetensors) of an earlier training that started from ``before``, or all are random.
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
        """Values for JSON."""
        return asdict(self)

    def origin(self) -> str:
        """The source of the weights, for messages."""
        if self.trained is not None:
            return f"training result {self.trained}"
        return f"weights {self.weights}" if self.weights else f"random weights, seed {self.seed}"


def initial_model(start: Start, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network before training, on the CPU, in evaluation mode, in ``dtype``. Bit-identical for equal ``start``.
    Weights from a file are converted tensor by tensor, so they are in memory in ``dtype`` only."""
    from cogtune.model.weights import load_weights

    # On meta, because drawing billions of parameters before they are overwritten took minutes and as much memory.
    with torch.random.fork_rng(devices=[]), torch.device("meta" if start.weights or start.trained else "cpu"):
        torch.manual_seed(_init_seed(start.seed))
        network: nn.Module = build(start.network_config)
    if start.weights:
        network.to(dtype)
    if start.trained is not None and start.before is not None:
        _copy_weights(network, start, trained_model(start.before, Path(start.trained)), start.before)
    elif start.weights:
        load_weights(network, start.weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_init_seed(start.seed))
        draw_adapters(network)
    return network.to(dtype).eval()


def trained_model(start: Start, path: Path) -> nn.Module:
    """The network after training: `initial_model` with the trained parameters from ``path``.

    ``path`` is final/model.safetensors or final/ema.safetensors of the training that started from ``start``.
    """
    network = initial_model(start)
    load_trained(network, path)
    return network


def load_trained(network: nn.Module, path: Path) -> int:
    """Overwrite the parameters that are in ``path``; returns their number. Raises UserError for an unknown name or a
    shape mismatch."""
    if not check_sums(path):
        say_unchecked(path)
    state = load_file(path)
    parameters = dict(network.named_parameters())
    for name, value in state.items():
        if name not in parameters or parameters[name].shape != value.shape:
            expected = f"shape {tuple(parameters[name].shape)}" if name in parameters else "no such parameter"
            raise UserError(
                f"{path}: {name} has shape {tuple(value.shape)}, but the model has {expected}; use the config of that run"
            )
        with torch.no_grad():
            parameters[name].copy_(value)
    return len(state)


def adapter_scale(network_config: dict[str, Any]) -> float | None:
    """lora_alpha / r of a network node; None without a LoRA."""
    lora = lora_of(network_config)
    return None if lora is None else lora.lora_alpha / lora.r


def lora_of(network_config: dict[str, Any]) -> LoraParams | None:
    """The LoRA parameters of a network node; None without a LoRA."""
    node = params_of(network_config).modules.get("lora_config")
    return None if node is None else params_of(node)


def _copy_weights(network: nn.Module, start: Start, earlier: nn.Module, before: Start) -> None:
    """Copy the weights of ``earlier``. Adapters of the same LoRA are copied; otherwise they are merged into the weights.
    Raises UserError for missing names and shape mismatches."""
    state: dict[str, Tensor] = earlier.state_dict()
    scale = adapter_scale(before.network_config)
    same_lora = scale == adapter_scale(start.network_config) and _adapters(network) == _adapters(earlier)
    if scale is not None and not same_lora:
        state = merge_lora(state, scale)
    expected = network.state_dict()
    without_lora = {name: name.replace(".original.", ".") for name in expected}
    values = {name: state.get(name, state.get(without_lora[name])) for name in expected}
    missing = [name for name, value in values.items() if value is None and not is_adapter(name)]
    reshaped = [name for name, value in values.items() if value is not None and value.shape != expected[name].shape]
    if missing or reshaped:
        raise UserError(
            f"args.load: {start.trained} is from a network of other sizes (missing: {missing[:3]}, shape mismatch: "
            f"{reshaped[:3]}); use the network_config of the experiment that is loaded"
        )
    # `assign` shares the memory of the earlier network; new adapters stay on meta.
    network.load_state_dict(
        expected | {name: value for name, value in values.items() if value is not None}, assign=True
    )


def _adapters(network: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in network.named_parameters() if is_adapter(name)}


def _init_seed(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"init {seed}".encode()).digest()[:8], "big") >> 1
