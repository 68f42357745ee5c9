"""Trains the demo's VAE on the training ranges of the footage: `make demo-assets`.

    python demo/train_vae.py                 about 20 minutes on 2 threads; writes demo/assets/vae.pt
    python demo/train_vae.py --evaluate      PSNR of the weights that are there, clip by clip

A toy: it has seen little more than these three videos. Upstream's structure at 16, 32, 32, 48 channels.
"""

import argparse
import io
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import CLIPS
from footage import SOURCES, clip_pixels, random_window
from torch import Tensor

from cogtune.config.build import build
from cogtune.runtime.atomic import write_bytes
from cogtune.runtime.progress import progress
from cogtune.work.load import load_config

WEIGHTS = Path(__file__).parent / "assets" / "vae.pt"
MODEL = Path(__file__).parents[1] / "config" / "tiny" / "demo.yaml"
BATCH, SEED, KL_WEIGHT = 4, 0, 1e-4
# The share of training windows that are clips of the demo; the rest is drawn at random. A toy may specialise, but with
# nothing else in the batch it would forget how to reconstruct the held-out seconds.
CLIP_SHARE = 0.5


def make_vae(weights: Path | None = None):
    """The autoencoder of config/tiny, with ``weights`` or random ones."""
    node = load_config([MODEL], check_files=False).values["model"]["first_stage_config"]
    return build(node | {"params": node["params"] | {"ckpt_path": str(weights) if weights else None}})


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: every convolution's update has singular values near 1 (Jordan et al. 2024, "Muon").

    Kernels are taken as matrices (channels out, channels in x taps). No state but the momentum, and no rate to tune per layer.
    """

    def __init__(self, parameters: Any, lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for parameter in group["params"]:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(average, group["momentum"]).flatten(1))
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix by Newton-Schulz iteration with Muon's quintic coefficients."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T) / (matrix.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T


def batches(seed: int):
    """Endless float batches (BATCH, 3, 9, 64, 96) in [-1, 1]."""
    generator = np.random.default_rng(seed)
    chosen = [window for kind in ("clips", "clips_lora") for _, window, _ in CLIPS[kind]]
    sources = list(SOURCES)
    while True:
        windows = [
            chosen[generator.integers(len(chosen))]
            if generator.random() < CLIP_SHARE
            else random_window(generator, sources[generator.choice(3, p=(0.5, 0.3, 0.2))])
            for _ in range(BATCH)
        ]
        yield torch.stack([clip_pixels(window) for window in windows]) / 127.5 - 1


@torch.no_grad()
def evaluate(vae: Any) -> dict[str, list[tuple[str, float]]]:
    """PSNR in dB of every clip through posterior mean and chunked decode, on uint8 pixels, and the latents' spread."""
    psnr_by_kind, latents = {}, []
    for kind, clips in CLIPS.items():
        psnr_by_kind[kind] = []
        for name, window, _ in clips:
            pixels_CTHW = clip_pixels(window).round()
            mean_BCTHW = vae.regularizer.mode(vae.encode(pixels_CTHW[None] / 127.5 - 1))
            again = ((vae.decode(mean_BCTHW)[0] + 1) * 127.5).clamp(0, 255).round()
            psnr_by_kind[kind].append((name, 10 * math.log10(255**2 / float((again - pixels_CTHW).square().mean()))))
            latents.append(mean_BCTHW)
    print(f"scale_factor (1 / standard deviation of the latents): {1 / torch.cat(latents).std().item():.4f}")
    return psnr_by_kind


def print_psnr(vae: Any) -> None:
    psnr_by_kind = evaluate(vae)
    trained = [value for kind in ("clips", "clips_lora") for _, value in psnr_by_kind[kind]]
    held = [value for _, value in psnr_by_kind["heldout"]]
    print(*(f"{kind}/{name} {value:.2f}" for kind, rows in psnr_by_kind.items() for name, value in rows), sep="\n")
    print(f"clips: mean {np.mean(trained):.2f} dB, min {min(trained):.2f} dB; held out: mean {np.mean(held):.2f} dB")


def save(vae: Any, path: Path) -> None:
    """Half precision, laid out as upstream's 3d-vae.pt."""
    content = io.BytesIO()
    torch.save({"state_dict": {name: value.half() for name, value in vae.state_dict().items()}}, content)
    write_bytes(path, content.getvalue())


def train(steps: int, until: int, out: Path) -> None:
    """bfloat16 arithmetic (1.5x faster on this CPU), float32 weights; cosine decay over ``steps``, exponential average."""
    torch.manual_seed(SEED)
    vae = make_vae().requires_grad_(True)
    average = torch.optim.swa_utils.AveragedModel(vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    kernels = [p for p in vae.parameters() if p.ndim >= 4 and min(p.flatten(1).shape) > 3]
    others = [p for p in vae.parameters() if not any(p is kernel for kernel in kernels)]
    optimizers = [Muon(kernels, lr=0.02), torch.optim.Adam(others, lr=3e-3, betas=(0.9, 0.99))]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    began, losses = time.monotonic(), []
    with progress(until, "VAE", "steps") as bar:
        for step, video_BCTHW in zip(range(until), batches(SEED), strict=False):
            fraction = min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 0.002
            for optimizer, rate in zip(optimizers, rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * fraction
            with torch.autocast("cpu", torch.bfloat16):
                moments = vae.encode(video_BCTHW)
                mean = vae.regularizer.mode(moments)
                again = vae.decode_whole(vae.regularizer.sample(moments, torch.randn_like(mean))).float()
            error = again - video_BCTHW
            kl = vae.regularizer.kl(moments.float()).sum() / mean.numel()
            loss = error.square().mean() + 0.05 * error.abs().mean() + KL_WEIGHT * kl
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            average.update_parameters(vae)
            losses.append((error.detach().square().mean().item(), kl.item()))
            bar.advance(1)
            if (step + 1) % 100 == 0:
                squared, divergence = np.mean(losses[-100:], axis=0)
                minutes = (time.monotonic() - began) / 60
                print(
                    f"step {step + 1}: {10 * math.log10(4 / squared):.2f} dB, KL {divergence:.2f} nats a dimension, {minutes:.1f} min",
                    flush=True,
                )
                save(average.module, out)
    save(average.module, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="only print the PSNR of the weights in --out")
    parser.add_argument("--steps", type=int, default=2200, help="length of the learning rate's decay")
    # The weights in demo/assets are those of step 1,200: past what the demo asks of them, and the rest is half an hour.
    parser.add_argument("--until", type=int, default=1200, help="stop after so many steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.evaluate:
        train(arguments.steps, arguments.until, arguments.out)
    print_psnr(make_vae(arguments.out))


if __name__ == "__main__":
    sys.exit(main())
