"""A toy that learns in seconds, for the figures that a recipe ends with: rate, alpha, rank, betas, decay, clipping.

A small transformer is trained on two latents, then tuned on two others as the recipe says, and its loss on fixed draws
is compared with what it was before. No DeepSpeed: what matters here is the step that the optimizer takes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.config.build import build
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.lora import draw_adapters, set_trainable
from cogtune.train.optimizers import make_optimizer
from tests.families import network_config

SIZE = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
PRETRAINED, TUNED, DRAWS = 150, 150, 8


@dataclass(frozen=True)
class Recipe:
    """``optimizer``: the node of a merged config; ``lora``: params of its lora_config, None for full tuning."""

    optimizer: dict[str, Any]
    lora: dict[str, Any] | None
    clipping: float = 0.0


def latents(seed: int) -> Tensor:
    """(2, T, C, H, W): smooth patterns, unlike those of another seed."""
    coarse = torch.randn(2 * 2, 4, 2, 3, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(4, 6), mode="bilinear").view(2, 2, 4, 4, 6) * 1.5


class Toy:
    """The pretrained network, and what it takes to tune a copy of it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = build(self._node(None))
        table = {"target": "ZeroSNRDDPMDiscretization", "params": {"shift_scale": 3.0}}
        sampling = {"target": "DiscreteSampling", "params": {"discretization_config": table, "uniform_sampling": True}}
        self.loss = build({"target": "VideoDiffusionLoss", "params": {"sigma_sampler_config": sampling}})
        optimizer = {"type": "AdamW", "params": {"betas": [0.9, 0.95]}}
        self._train(self.network, latents(1), Recipe(optimizer, None), 2e-3, PRETRAINED)
        self.state = self.network.state_dict()

    def gain(self, recipe: Recipe) -> float:
        """Share of its loss on the new latents that the network loses when it is tuned by the recipe."""
        torch.manual_seed(1)
        network = build(self._node(recipe.lora))
        own = network.state_dict()
        network.load_state_dict(own | {n: self.state[n.replace(".original.", ".")] for n in own if "matrix_" not in n})
        draw_adapters(network)
        before = self._measured(network)
        set_trainable(network, ["all"] if recipe.lora else [])
        self._train(network, latents(2), recipe, recipe.optimizer["params"]["lr"], TUNED)
        return 1 - self._measured(network) / before

    def _node(self, lora: dict[str, Any] | None) -> dict[str, Any]:
        return network_config("2b", lora, **SIZE)

    def _train(self, network: DiffusionTransformer, data: Tensor, recipe: Recipe, rate: float, steps: int) -> None:
        optimizer = make_optimizer(
            network.train(), recipe.optimizer, recipe.optimizer["params"].get("weight_decay", 0.0), torch.device("cpu")
        )
        trained = [p for p in network.parameters() if p.requires_grad]
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            self._loss(network, data, step).backward()
            if recipe.clipping:
                nn.utils.clip_grad_norm_(trained, recipe.clipping)
            optimizer.step()

    @torch.no_grad()
    def _measured(self, network: DiffusionTransformer) -> float:
        return sum(float(self._loss(network.eval(), latents(2), -1 - i)) for i in range(DRAWS)) / DRAWS

    def _loss(self, network: DiffusionTransformer, data: Tensor, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(10_000 + seed)
        noise = torch.randn(data.shape, generator=draw)
        index = self.loss.sampling.index(torch.rand(2, generator=draw), torch.arange(2), 2)
        context = torch.zeros(2, network.mixins.pos_embed.text_length, network.mixins.patch_embed.text_proj.in_features)
        return self.loss(network, data, context, index, noise).mean()
