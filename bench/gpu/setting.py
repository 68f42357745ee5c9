"""The shipped configs as cases: one published model, what trains, and the policy; or the same at a size for a CPU."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.checkpoints.published import FIRST, NEWER
from cogtune.config.build import build, params_of
from cogtune.config.schema.checkpointing import Policy
from cogtune.model.lora import set_trainable
from cogtune.model.weights.diffusers import config_json
from cogtune.plan.cost.work import Costs
from cogtune.plan.stage_cost import StageCost
from cogtune.work.load import load_config

CONFIGS = Path(__file__).parents[2] / "config"
FILES = {"2b": "cogvideox_2b", "5b": "cogvideox_5b", "1.5": "cogvideox1.5_5b"}
_NETWORK = "model.network_config.params"
_TINY = {
    f"{_NETWORK}.num_layers": 2,
    f"{_NETWORK}.hidden_size": 128,
    f"{_NETWORK}.num_attention_heads": 2,
    f"{_NETWORK}.time_embed_dim": 64,
    "model.first_stage_config.params.encoder_config.params.ch": 32,
    "model.first_stage_config.params.decoder_config.params.ch": 32,
    f"{_NETWORK}.latent_height": 8,
    f"{_NETWORK}.latent_width": 12,
    f"{_NETWORK}.num_frames": 9,
    "data.params.video_size": "[64, 96]",
    "data.params.max_num_frames": 9,
}
"""Changes that let a case run on a CPU in a second. The widths of text and latents stay."""


@dataclass(frozen=True)
class Setting:
    """``model``: a key of `FILES`; ``lora``: the rank of the adapters, 0: all weights train; ``tiny``: see `_TINY`."""

    model: str
    lora: int = 128
    policy: Policy = Policy.FULL
    tiny: bool = False

    @property
    def trains(self) -> str:
        return f"LoRA {self.lora}" if self.lora else "all weights"

    @property
    def case(self) -> str:
        return f"{self.trains}, {self.policy}"

    @cached_property
    def values(self) -> dict[str, Any]:
        """The merged config: one clip a step, in bf16."""
        form = NEWER if self.model == "1.5" else FIRST
        changes: dict[str, Any] = {
            "args.train_data": "[clips]",
            "args.global_batch_size": 1,
            "deepspeed.train_micro_batch_size_per_gpu": 1,
            "args.bf16": "true",
            "args.encoder_precision": "bf16",
            "data.params.video_size": f"[{form.size[0]}, {form.size[1]}]",
            "data.params.max_num_frames": form.frames,
            "data.params.fps": form.fps,
            f"{_NETWORK}.transformer_args.checkpoint_activations": self.policy.value,
        }
        files = [CONFIGS / f"{FILES[self.model]}.yaml", CONFIGS / "sft.yaml"]
        if self.lora:
            files.append(CONFIGS / "lora.yaml")
            changes[f"{_NETWORK}.modules.lora_config.params.r"] = 4 if self.tiny else self.lora
        if self.tiny:
            changes |= _TINY
        return load_config(files, [f"{key}={value}" for key, value in changes.items()], check_files=False).values

    @cached_property
    def costs(self) -> Costs:
        return Costs(self.values)

    def planned(self, cost: type[StageCost], rate: float | None, units: float = 1) -> tuple[float | None, float]:
        """(seconds of ``units`` units at the device's peak ``rate``, peak bytes) by `cogtune plan`."""
        stage = cost(self.costs)
        return stage.work(units) / (rate * stage.gpu) if rate else None, stage.device_bytes(1)

    @property
    def node(self) -> dict[str, Any]:
        return self.values["model"]["network_config"]

    def network(self, device: torch.device) -> Any:
        with torch.device("meta"):
            network = build(self.node).to(torch.bfloat16)
        set_trainable(network, ["all"] if self.lora else [])
        return filled(network, device)

    def diffusers(self, device: torch.device) -> Any:
        """The same model, with adapters on the same projections."""
        from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

        config = {name: value for name, value in config_json(params_of(self.node)).items() if name != "_class_name"}
        with torch.device("meta"):
            twin: Any = CogVideoXTransformer3DModel(**config)
            if self.lora:
                from peft import LoraConfig

                twin.requires_grad_(False)
                targets, rank = ["to_q", "to_k", "to_v", "to_out.0"], self.costs.network.rank
                twin.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
        return filled(twin.to(torch.bfloat16), device)

    def vae(self, device: torch.device) -> Any:
        node = self.values["model"]["first_stage_config"]
        with torch.device("meta"):
            vae = build(node | {"params": node["params"] | {"ckpt_path": None}}).to(torch.bfloat16)
        return filled(vae, device).eval()

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Latent (1, T, C, H, W), timestep (1,), context (1, L, D), in bf16."""
        grid, kind = self.costs.grid, {"dtype": torch.bfloat16, "device": device}
        T, H, W = grid.latent
        x_BTCHW = torch.randn(1, T, self.costs.network.params.in_channels, H, W, **kind)
        context_BLD = torch.randn(1, grid.text, self.costs.network.text_width, **kind)
        return x_BTCHW, torch.tensor([500], device=device), context_BLD


def filled(network: nn.Module, device: torch.device) -> Any:
    """On the device, with random weights; norms are 1."""
    network.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if "norm" in name and name.endswith("weight"):
                tensor.fill_(1)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.02)
    return network.train()
