"""Compares real weights in cogtune with diffusers and transformers: `python -m tests.verify_weights FOLDER`.

    make verify-weights MODEL=weights/cogvideox-5b
    python -m tests.verify_weights weights/cogvideox-5b --t5 weights/t5-v1_1-xxl --device cuda

FOLDER: a model in diffusers' layout, as `cogtune weights get` makes it. Checked: names and shapes of transformer and VAE
against the config of the family; one forward pass of the transformer in bf16; VAE encoder and decoder in fp32; T5 in bf16, and
its tokenizer there and back. One line each, OK or FAIL; exit code 1 if one fails.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints import fit, kinds, read_header
from cogtune.checkpoints.shapes import PREFIXES
from cogtune.checkpoints.text_encoder import read_text_encoder
from cogtune.config.build import build
from cogtune.errors import UserError
from cogtune.model.text import T5Embedder
from cogtune.model.weights import load_weights
from cogtune.runtime.devices import prepare_torch
from cogtune.work.load import load_config

CONFIGS = Path(__file__).parents[1] / "config"
FILES = {
    "2B": "cogvideox_2b",
    "5B": "cogvideox_5b",
    "5B-I2V": "cogvideox_5b_i2v",
    "1.5-5B": "cogvideox1.5_5b",
    "1.5-5B-I2V": "cogvideox1.5_5b_i2v",
}
"""Family (`kinds.FAMILIES`) -> file in config/."""
CAPTIONS = ("a wave rolls over the sand", "a golden retriever runs over a meadow in the evening sun")
CLOSE, EXACT = 0.03, 1e-3
"""Of the largest value: two implementations over 42 layers in bf16, which has 3 significant digits; and in fp32."""
PSNR = 25.0
"""Decibels that encoding and decoding a smooth clip keeps at least, with published weights."""


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    name: str
    good: bool
    detail: str

    def __str__(self) -> str:
        return f"{'OK  ' if self.good else 'FAIL'}  {self.name}: {self.detail}"


@dataclass(frozen=True)
class Model:
    """The folder, the config of its family (``base``, ``changes``; found by the header if ``base`` is empty), the T5."""

    folder: Path
    device: torch.device
    t5: Path | None = None
    base: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @cached_property
    def family(self) -> str:
        header = read_header(self.folder, component="transformer")
        tensors = kinds.component(header, PREFIXES["network"])
        return kinds.family({name: tensor.shape for name, tensor in tensors.items()})

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model section."""
        base = [Path(path) for path in self.base] or [self._shipped()]
        return load_config(base, self.changes, check_files=False, partial=True).values["model"]

    def _shipped(self) -> Path:
        if self.family not in FILES:
            raise UserError(
                f"{self.folder}: not a published transformer; name the config that describes it with --base"
            )
        return CONFIGS / f"{FILES[self.family]}.yaml"

    @property
    def text_encoder(self) -> Path:
        (node,) = self.config["conditioner_config"]["params"]["emb_models"]
        own = (self.folder / "text_encoder").is_dir()
        return self.t5 or (self.folder if own else Path(node["params"]["model_dir"]))


def checks(model: Model) -> Iterator[Check]:
    """All checks, one after the other; a model is freed before the next one is loaded."""
    for node, component in (("network_config", "transformer"), ("first_stage_config", "vae")):
        misfit = fit.fit(model.config[node], read_header(model.folder, component=component))
        yield Check(f"{component}, names and shapes", not misfit, misfit.listed() if misfit else "as in the config")
        if misfit:
            return
    for check in (transformer, autoencoder, text_encoder):
        yield from check(model)
        gc.collect()
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


@torch.no_grad()
def transformer(model: Model) -> Iterator[Check]:
    """One forward pass at the published height and width, with as many latent frames as a patch has."""
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

    from bench.sides import rotary_of

    node = model.config["network_config"]
    params, kind = node["params"], {"device": model.device, "dtype": torch.bfloat16}
    torch.manual_seed(0)
    patch = params["patch_size"]
    frames = patch[0] if isinstance(patch, list) else 1
    height, width = (min(params[name], 96) for name in ("latent_height", "latent_width"))
    x_BTCHW = torch.randn(1, frames, params["in_channels"], height, width).to(**kind)
    (embedder,) = model.config["conditioner_config"]["params"]["emb_models"]
    text_width = params["modules"]["patch_embed_config"]["params"]["text_hidden_size"]
    context_BLD = torch.randn(1, embedder["params"]["max_length"], text_width).to(**kind)
    timesteps_B = torch.tensor([500], device=model.device)

    with torch.device("meta"):
        ours = build(node).to(torch.bfloat16)
    load_weights(ours, model.folder)
    given = ours.to(model.device).eval()(x_BTCHW, timesteps_B, context_BLD).float().cpu()
    del ours
    gc.collect()
    twin: Any = CogVideoXTransformer3DModel.from_pretrained(model.folder / "transformer", torch_dtype=torch.bfloat16)
    twin = twin.to(model.device).eval()
    rotary = rotary_of(twin, frames, height, width, model.device)
    ofs = torch.full((1,), 2.0, **kind) if twin.config.ofs_embed_dim else None
    expected = twin(x_BTCHW, context_BLD, timesteps_B, ofs=ofs, image_rotary_emb=rotary, return_dict=False)[0]
    yield compare(
        f"transformer ({model.family}), forward pass of {frames} x {height} x {width} latents", given, expected
    )


@torch.no_grad()
def autoencoder(model: Model) -> Iterator[Check]:
    """Moments and pixels of a smooth clip, and how much of it is left after both."""
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    node = model.config["first_stage_config"]
    ours = build(node | {"params": node["params"] | {"ckpt_path": str(model.folder)}})
    ours = ours.to(model.device).eval()
    twin: Any = AutoencoderKLCogVideoX.from_pretrained(model.folder / "vae", torch_dtype=torch.float32)
    twin = twin.to(model.device).eval()
    video_BCTHW = smooth_clip(9, 96, 160).to(model.device)
    moments_BCTHW, expected = ours.encode(video_BCTHW), twin.encode(video_BCTHW).latent_dist.parameters
    yield compare("VAE, encoder", moments_BCTHW, expected, EXACT)
    mean_BCTHW = moments_BCTHW.chunk(2, dim=1)[0]
    decoded_BCTHW = ours.decode(mean_BCTHW)
    yield compare("VAE, decoder", decoded_BCTHW, twin.decode(mean_BCTHW).sample, EXACT)
    error = (decoded_BCTHW.float() - video_BCTHW.float()).square().mean()
    psnr = float(10 * torch.log10(4 / error))
    published = model.family in FILES
    needed = f"at least {PSNR:.0f} dB with published weights"
    yield Check("VAE, there and back", psnr >= PSNR or not published, f"PSNR {psnr:.1f} dB of a smooth clip ({needed})")


@torch.no_grad()
def text_encoder(model: Model) -> Iterator[Check]:
    """Encodings of two captions, and the captions from their tokens."""
    from transformers import AutoTokenizer, T5EncoderModel

    (node,) = model.config["conditioner_config"]["params"]["emb_models"]
    params = {"model_dir": str(model.text_encoder), "max_length": node["params"]["max_length"]}
    ours: T5Embedder = build({**node, "params": params}, device=model.device, dtype=torch.bfloat16)
    given = ours.encode(CAPTIONS).float().cpu()
    del ours
    gc.collect()
    folder = read_text_encoder(model.text_encoder)
    tokenizer = AutoTokenizer.from_pretrained(folder.tokenizer, local_files_only=True)
    twin: Any = T5EncoderModel.from_pretrained(folder.weights, dtype=torch.bfloat16, local_files_only=True)
    twin = twin.to(model.device).eval()
    length = params["max_length"]
    tokens = tokenizer(list(CAPTIONS), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    yield compare("T5, encoder", given, twin(tokens["input_ids"].to(model.device)).last_hidden_state)
    back = [tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens["input_ids"]]
    wrong = [caption for caption, text in zip(CAPTIONS, back, strict=True) if caption != text]
    known = "both captions" if not wrong else f"{wrong[0]!r} is {back[CAPTIONS.index(wrong[0])]!r}"
    yield Check("T5, tokenizer there and back", not wrong or model.family not in FILES, known)


def compare(name: str, given: Tensor, expected: Tensor, limit: float = CLOSE) -> Check:
    """The largest difference as a share of the largest value."""
    given, expected = given.float().cpu(), expected.float().cpu()
    if given.shape != expected.shape:
        return Check(name, False, f"shape {tuple(given.shape)}, expected {tuple(expected.shape)}")
    difference = float((given - expected).abs().max() / expected.abs().max())
    return Check(
        name, difference <= limit, f"largest difference {difference:.1e} of the largest value (limit {limit:g})"
    )


def smooth_clip(frames: int, height: int, width: int) -> Tensor:
    """(1, 3, F, H, W) in [-1, 1]: slow waves that move."""
    t, y, x = torch.meshgrid(*(torch.linspace(0, 1, size) for size in (frames, height, width)), indexing="ij")
    colours: list[Callable[[Tensor], Tensor]] = [torch.sin, torch.cos, lambda angle: torch.sin(angle / 2)]
    return torch.stack([colour(6 * (x + y) + 2 * t) for colour in colours])[None] * 0.8


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.verify_weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--t5", type=Path, help="folder of T5 (default: in FOLDER, or that of the config)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--base", nargs="+", default=[], help="config files (default: by the weights' family)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config")
    options = parser.parse_args(arguments)
    prepare_torch()
    model = Model(options.folder, torch.device(options.device), options.t5, tuple(options.base), tuple(options.set))
    failed = False
    try:
        for check in checks(model):
            print(check, flush=True)
            failed = failed or not check.good
    except UserError as error:
        print(f"FAIL  {error}", file=sys.stderr)
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
