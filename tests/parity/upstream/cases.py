"""What upstream's own code (`record.py`) and ours (`test_upstream.py`) compute from the same numbers.

Weights and inputs are drawn from their names and stored nowhere; numpy's RandomState gives the same stream for ever (NEP 19).
"""

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.families import TEXT, TEXT_WIDTH, network_config

# (family, with LoRA, T, H, W, B): sizes of 8 x 12 and below it, which upstream's tables are made for
DITS = [
    (family, lora, T, H, W, B)
    for family, sizes in {
        "2b": [(3, 8, 12, 2), (1, 8, 12, 1), (2, 6, 4, 2)],
        "5b": [(3, 8, 12, 2), (1, 4, 2, 1), (2, 6, 10, 1)],
        "5b_i2v": [(3, 8, 12, 2), (1, 8, 12, 1), (2, 6, 4, 2)],
        "1.5_5b": [(4, 8, 12, 2), (2, 6, 10, 1)],
        "1.5_5b_i2v": [(4, 8, 12, 2), (2, 6, 10, 1)],
    }.items()
    for lora in (False, True)
    for T, H, W, B in (sizes[:1] if lora else sizes)
]
ENCODED, DECODED = (1, 5, 9, 17), (1, 3, 4, 5)  # frames of 16 x 24; latent frames of 2 x 3
_SGM = "sgm.modules.diffusionmodules"
_SCHEDULES = [(1.0, 50), (3.0, 50), (1.0, 6), (3.0, 1000)]  # shift_scale, steps


def drawn(name: str, *shape: int) -> Tensor:
    """Standard normal, fp32."""
    return torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).float()


def filled(module: Any) -> Any:
    """Every parameter random and non-zero, norms around 1; a sine-cosine table stays what it is."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("pos_embedding") and not parameter.requires_grad:
                continue
            centre = 1.0 if "norm" in name and name.endswith("weight") and parameter.ndim == 1 else 0.0
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 and parameter.ndim != 3 else 0.1
            parameter.copy_(centre + spread * drawn(name, *parameter.shape))
    return module.eval()


def dit_node(family: str, lora: bool) -> dict[str, Any]:
    return network_config(family, lora={"r": 4} if lora else None)


def dit_results(dit: nn.Module, channels: int, T: int, H: int, W: int, B: int, **more: Any) -> dict[str, Tensor]:
    """Output (B, T, C, H, W), and of the gradients of all parameters and of x one random projection each."""
    x = drawn("x", B, T, channels, H, W).requires_grad_()
    output = dit(x, torch.tensor([999, 7][:B]), drawn("context", B, TEXT, TEXT_WIDTH), **more)
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


def _schedule(shift: float) -> dict[str, Any]:
    return {"target": f"{_SGM}.discretizer.ZeroSNRDDPMDiscretization", "params": {"shift_scale": shift}}


def denoiser_node(shift: float) -> dict[str, Any]:
    params = {
        "num_idx": 1000,
        "quantize_c_noise": False,
        "weighting_config": {"target": f"{_SGM}.denoiser_weighting.EpsWeighting"},
        "scaling_config": {"target": f"{_SGM}.denoiser_scaling.VideoScaling"},
        "discretization_config": _schedule(shift),
    }
    return {"target": f"{_SGM}.denoiser.DiscreteDenoiser", "params": params}


def sampler_nodes() -> dict[str, tuple[float, dict[str, Any]]]:
    """Shift and sampler. Only the stochastic sampler has a case with fixed frames: upstream's other two ignore them."""
    found = {}
    for sampler in ("VideoDDIMSampler", "VPSDEDPMPP2MSampler", "VPODEDPMPP2MSampler"):
        for guider in ("VanillaCFG", "DynamicCFG"):
            for shift, steps in _SCHEDULES[:3]:
                dynamic = {"exp": 5, "num_steps": steps} if guider == "DynamicCFG" else {}
                params = {
                    "num_steps": steps,
                    "verbose": False,
                    "device": "cpu",
                    "discretization_config": _schedule(shift),
                    "guider_config": {"target": f"{_SGM}.guiders.{guider}", "params": {"scale": 6, **dynamic}},
                }
                node = {"target": f"{_SGM}.sampling.{sampler}", "params": params}
                found[f"{sampler}, {guider}, shift {shift:g}, {steps} steps"] = shift, node
                if sampler == "VPSDEDPMPP2MSampler" and guider == "DynamicCFG":
                    for sdedit in (False, True):
                        fixed = {**node, "params": {**params, "fixed_frames": 1, "sdedit": sdedit}}
                        name = f"{sampler}, shift {shift:g}, {steps} steps, 1 frame fixed{sdedit * ', noised'}"
                        found[name] = shift, fixed
    return found


def schedule_nodes() -> dict[str, tuple[int, dict[str, Any]]]:
    return {f"shift {shift:g}, {steps} steps": (steps, _schedule(shift)) for shift, steps in _SCHEDULES}


def loss_nodes() -> dict[str, tuple[float, dict[str, Any]]]:
    found = {}
    for shift in (1.0, 3.0):
        for kind in ("l2", "l1"):
            sampling = {
                "target": f"{_SGM}.sigma_sampling.DiscreteSampling",
                "params": {"uniform_sampling": True, "num_idx": 1000, "discretization_config": _schedule(shift)},
            }
            params = {"type": kind, "offset_noise_level": 0, "sigma_sampler_config": sampling}
            found[f"{kind}, shift {shift:g}"] = shift, {"target": f"{_SGM}.loss.VideoDiffusionLoss", "params": params}
    return found


INDEX_B = torch.tensor([0, 500, 998])
LATENT = (1, 3, 4, 4, 6)


def toy(x_BTCHW: Tensor, timesteps_B: Tensor, context_BLD: Tensor, **_: Any) -> Tensor:
    """In place of the network, where it is the arithmetic around it that is compared."""
    said = 0.2 * context_BLD.mean((1, 2)) + timesteps_B.float() / 700
    return torch.tanh(1.3 * x_BTCHW + said.view(-1, 1, 1, 1, 1)) + 0.3 * x_BTCHW.roll(1, 1)
