"""What upstream's own code (`record.py`) and ours (`test_upstream.py`) compute from the same numbers.

Weights and inputs are drawn from their names and stored nowhere; numpy's RandomState gives the same stream for ever (NEP 19).
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.families import TEXT, TEXT_WIDTH, network_config
from tests.unit.diffusion import nodes

TENSORS = Path(__file__).with_name("tensors.safetensors")
# (family, kind, T, H, W, B): sizes of 8 x 12 and below it, which upstream's tables are made for
_SIZES = {
    "2b": [(3, 8, 12, 2), (1, 8, 12, 1), (2, 6, 4, 2)],
    "5b": [(3, 8, 12, 2), (1, 4, 2, 1), (2, 6, 10, 1)],
    "5b_i2v": [(3, 8, 12, 2), (1, 8, 12, 1), (2, 6, 4, 2)],
    "1.5_5b": [(4, 8, 12, 2), (2, 6, 10, 1)],
    "1.5_5b_i2v": [(4, 8, 12, 2), (2, 6, 10, 1)],
}
DITS = [(family, "plain", *size) for family, sizes in _SIZES.items() for size in sizes]
DITS += [(family, "lora", *sizes[0]) for family, sizes in _SIZES.items()]
# Of 2b there is none: its sine-cosine table of ones is added to the tokens, however small those are.
DITS += [(family, "quiet", *sizes[-1]) for family, sizes in _SIZES.items() if family != "2b"]
TIMESTEPS = (999, 7)
QUIET = ("patch_embed", "pos_embedding", "query_key_value", "dense_4h_to_h", "transformer.final_layernorm")
"""Parameters that are a hundredth in the "quiet" networks. What enters a norm then varies by 1e-2, so that an epsilon of
1e-6 instead of 1e-5 is some per cent of the result, and not less than the rounding errors."""
ENCODED, DECODED = (1, 5, 9, 17), (1, 3, 4, 5)  # frames of 16 x 24; latent frames of 2 x 3
INDEX_B = torch.tensor([0, 500, 998])  # timesteps of the losses
WIDTH = 48  # of the networks, and of their timestep embedding
LATENT = (1, 3, 4, 4, 6)
_SAMPLED = [(1.0, 50), (3.0, 50), (1.0, 6)]  # shift_scale, steps


def drawn(name: str, *shape: int) -> Tensor:
    """Standard normal, fp32."""
    return torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).float()


def filled(module: Any, kind: str = "plain") -> Any:
    """Every parameter random and non-zero, norms around 1; a sine-cosine table stays what it is."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("pos_embedding") and not parameter.requires_grad:
                continue
            centre = 1.0 if "norm" in name and name.endswith("weight") and parameter.ndim == 1 else 0.0
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 and parameter.ndim != 3 else 0.1
            size = 0.01 if kind == "quiet" and any(part in name for part in QUIET) else 1.0
            parameter.copy_(size * (centre + spread * drawn(name, *parameter.shape)))
    return module.eval()


def dit_name(family: str, kind: str, T: int, H: int, W: int, B: int) -> str:
    return f"dit/{family}/{kind}/{T}x{H}x{W}x{B}"


def dit_node(family: str, kind: str) -> dict[str, Any]:
    return network_config(family, lora={"r": 4} if kind == "lora" else None)


def dit_results(dit: nn.Module, channels: int, T: int, H: int, W: int, B: int, **more: Any) -> dict[str, Tensor]:
    """Output (B, T, C, H, W), and of the gradients of all parameters and of x one random projection each."""
    x = drawn("x", B, T, channels, H, W).requires_grad_()
    output = dit(x, torch.tensor(TIMESTEPS[:B]), drawn("context", B, TEXT, TEXT_WIDTH), **more)
    output.backward(drawn("direction", *output.shape))
    leaves = {"x": x} | dict(sorted(dit.named_parameters()))
    projected = [
        (leaf.grad * drawn(f"{name}, projected", *leaf.shape)).sum()
        for name, leaf in leaves.items()
        if leaf.grad is not None
    ]
    return {"output": output.detach(), "gradients": torch.stack(projected)}


def vae_node() -> dict[str, Any]:
    coder = {
        "double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 2, 3], "attn_resolutions": [], "num_res_blocks": 1, "dropout": 0.0,
    }  # fmt: skip
    params = {
        "cp_size": 1,
        "loss_config": {"target": "torch.nn.Identity"},
        "regularizer_config": {"target": "vae_modules.regularizers.DiagonalGaussianRegularizer"},
        "encoder_config": {"target": "vae_modules.cp_enc_dec.ContextParallelEncoder3D", "params": coder},
        "decoder_config": {"target": "vae_modules.cp_enc_dec.ContextParallelDecoder3D", "params": coder},
    }
    return {"target": "vae_modules.autoencoder.VideoAutoencoderInferenceWrapper", "params": params}


def video(frames: int) -> Tensor:
    return drawn("video", 1, 3, frames, 16, 24).clamp(-1, 1)


def latent(frames: int) -> Tensor:
    return drawn("latent", 1, 4, frames, 2, 3)


def context(batch: int) -> Tensor:
    return drawn("context", batch, 5, 8)


def schedule_nodes() -> dict[str, tuple[int, dict[str, Any]]]:
    """Steps and schedule."""
    made = [(steps, {"shift_scale": shift}) for shift, steps in (*_SAMPLED, (3.0, 1000))]
    made += [(50, {"shift_scale": 3.0, switch: True}) for switch in ("keep_start", "post_shift")]
    return {f"{steps} steps, {params}": (steps, nodes.discretization(**params)) for steps, params in made}


def denoiser_node(shift: float) -> dict[str, Any]:
    return nodes.denoiser(discretization_config=nodes.discretization(shift_scale=shift))


def sampler_nodes() -> dict[str, tuple[float, dict[str, Any]]]:
    """Shift and sampler. Only the stochastic sampler has cases with fixed frames: upstream's other two ignore them."""
    stochastic = "VPSDEDPMPP2MSampler"
    plain = [(kind, {}) for kind in ("VideoDDIMSampler", stochastic, "VPODEDPMPP2MSampler")]
    fixed = [(stochastic, {"fixed_frames": 1, "sdedit": sdedit}) for sdedit in (False, True)]
    found = {}
    for kind, more in plain + fixed:
        for shift, steps in _SAMPLED:
            for guider in ("VanillaCFG", "DynamicCFG"):
                ramp = {"exp": 5, "num_steps": steps} if guider == "DynamicCFG" else {}
                params = {
                    "device": "cpu",
                    "discretization_config": nodes.discretization(shift_scale=shift),
                    "guider_config": nodes.guider(guider, scale=6, **ramp),
                    **more,
                }
                name = f"{kind}, {guider}, shift {shift:g}, {steps} steps, {more}"
                found[name] = shift, nodes.sampler(kind, steps, **params)
    return found


def loss_nodes() -> dict[str, tuple[float, dict[str, Any]]]:
    """Shift and loss."""
    return {
        f"{kind}, shift {shift:g}": (
            shift,
            nodes.loss(
                type=kind,
                sigma_sampler_config=nodes.sampling_index(
                    discretization_config=nodes.discretization(shift_scale=shift)
                ),
            ),
        )
        for shift in (1.0, 3.0)
        for kind in ("l2", "l1")
    }


def toy(x_BTCHW: Tensor, timesteps_B: Tensor, context_BLD: Tensor, **_: Any) -> Tensor:
    """In place of the network, where it is the arithmetic around it that is compared."""
    said = 0.2 * context_BLD.mean((1, 2)) + timesteps_B.float() / 700
    return torch.tanh(1.3 * x_BTCHW + said.view(-1, 1, 1, 1, 1)) + 0.3 * x_BTCHW.roll(1, 1)
