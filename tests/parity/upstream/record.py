"""Writes tensors.safetensors: `python -m tests.parity.upstream.record COGVIDEO SAT`, folders of clones of
github.com/zai-org/CogVideo and github.com/THUDM/SwissArmyTransformer. It runs on a CPU, in the environment of `make setup`.
"""

import argparse
import copy
import importlib.machinery
import itertools
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from tests.parity.upstream import cases

# Imported by upstream's modules, and not used in what is computed here.
ABSENT = (
    "beartype", "boto3", "cpm_kernels", "cv2", "datasets", "decord", "fsspec", "kornia", "open_clip", "pytorch_lightning",
    "scipy", "tensorboardX", "torchvision", "wandb", "webdataset", "xformers",
    "sat.data_utils", "sat.model.position_embedding.triton_rotary_embeddings",
)  # fmt: skip


class _Stand(types.ModuleType):
    """Classes to inherit from, and decorators that do nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {}) if name[0].isupper() else lambda given=None, *_, **__: given


class _Finder:
    def find_spec(self, name: str, *_: Any) -> Any:
        if any(name == one or name.startswith(one + ".") for one in ABSENT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        stand = _Stand(spec.name)
        stand.__path__ = []
        return stand

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def prepare(cogvideo: Path, sat: Path) -> None:
    """Make upstream importable, and its code for one GPU run on a CPU."""
    # These look for optional packages, so before there are stand-ins.
    import deepspeed  # noqa: F401
    from transformers import CLIPTextModel, T5EncoderModel  # noqa: F401

    sys.path[:0] = [str(cogvideo / "sat"), str(sat)]
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
    sys.modules["beartype.typing"] = typing
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    from sat import mpu  # type: ignore[import-not-found]

    mpu.initialize_model_parallel(1)
    from sgm.util import initialize_context_parallel  # type: ignore[import-not-found]

    initialize_context_parallel(1)


def instance(node: dict[str, Any], **more: Any) -> Any:
    from sgm.util import instantiate_from_config  # type: ignore[import-not-found]

    return instantiate_from_config(node, **more)


def dit(family: str, kind: str) -> Any:
    """Upstream's network. Its last commit takes no published 1.0 file as it is: a patch size has to be three numbers,
    and the interpolation keys of 2B may not stand where its file has them."""
    node = copy.deepcopy(cases.dit_node(family, kind))
    params = node["params"]
    if isinstance(params["patch_size"], int):
        params["patch_size"] = [1, params["patch_size"], params["patch_size"]]
    position = params["modules"]["pos_embed_config"]["params"]
    for key in ("height_interpolation", "width_interpolation"):
        if key in position:
            params[key] = position.pop(key)
    args = {
        "is_decoder": False, "layernorm_order": "pre", "skip_init": False, "model_parallel_size": 1, "hidden_dropout": 0.0,
        "attention_dropout": 0.0, "mode": "training", **params.pop("transformer_args"),
    }  # fmt: skip
    return cases.filled(instance(node, transformer_args=SimpleNamespace(**args)), kind)


def dit_tensors() -> Iterator[tuple[str, Tensor]]:
    from sgm.modules.diffusionmodules.util import timestep_embedding  # type: ignore[import-not-found]

    yield "timesteps", timestep_embedding(torch.tensor(cases.TIMESTEPS), cases.WIDTH)
    for case in cases.DITS:
        family, kind, *size = case
        network = dit(family, kind)
        more = {"ofs": torch.full((1,), 2.0)} if network.ofs_embed_dim else {}
        found = cases.dit_results(network, network.in_channels, *size, **more)
        for what, tensor in found.items():
            yield f"{cases.dit_name(*case)}/{what}", tensor


@torch.no_grad()
def vae_tensors() -> Iterator[tuple[str, Tensor]]:
    from vae_modules.autoencoder import VideoAutoencodingEngine  # type: ignore[import-not-found]

    vae = cases.filled(instance(cases.vae_node()))
    for frames in cases.ENCODED:
        moments = vae.encode(cases.video(frames), unregularized=True)
        yield f"vae/encoded/{frames}", moments[0] if isinstance(moments, tuple) else moments
    for frames in cases.DECODED:
        # By two latents, the first time by up to three. The wrapper switches off what tells the first chunk from the others
        # unless several GPUs share a clip, so the engine under it is called.
        first = min(frames, 2 + frames % 2)
        bounds = [0, *range(first, frames + 1, 2)]
        chunks = [
            VideoAutoencodingEngine.decode(
                vae,
                cases.latent(frames)[:, :, start:end].contiguous(),
                use_cp=start == 0,
                clear_fake_cp_cache=end == frames,
            )
            for start, end in itertools.pairwise(bounds)
        ]
        yield f"vae/decoded/{frames}", torch.cat(chunks, dim=2)


@contextmanager
def given(noise: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """`torch.randn_like` is ``noise``, and `torch.randint` gives the timesteps of the cases."""
    before = torch.randn_like, torch.randint
    torch.randn_like, torch.randint = noise, (lambda *_, **__: cases.INDEX_B)
    try:
        yield
    finally:
        torch.randn_like, torch.randint = before


def network(x: Tensor, timesteps: Tensor, cond: dict[str, Tensor], **_: Any) -> Tensor:
    return cases.toy(x, timesteps, cond["crossattn"])


def sampled(shift: float, node: dict[str, Any]) -> Tensor:
    sampler, denoiser, calls = instance(node), instance(cases.denoiser_node(shift)), []

    def denoise(x: Tensor, a: Tensor, cond: dict[str, Tensor], **more: Any) -> Tensor:
        calls.append(a)
        return denoiser(network, x, a, cond, **more)

    conditional, unconditional = ({"crossattn": one} for one in (cases.context(1), torch.zeros_like(cases.context(1))))

    def noise(x: Tensor) -> Tensor:
        """Of the prefix before a step; of the step, which draws twice from the second on and uses the second draw."""
        frames = x.shape[1]
        name = f"prefix {len(calls)}" if frames < cases.LATENT[1] else f"noise {len(calls) - 1}"
        return cases.drawn(name, *cases.LATENT)[:, :frames]

    with given(noise):
        return sampler(denoise, cases.drawn("start", *cases.LATENT), conditional, uc=unconditional)


def diffusion_tensors() -> Iterator[tuple[str, Tensor]]:
    for name, (steps, node) in cases.schedule_nodes().items():
        yield f"schedule/{name}", instance(node)(steps, do_append_zero=False)
    for name, (shift, node) in cases.sampler_nodes().items():
        yield f"sampled/{name}", sampled(shift, node)
    for name, (shift, node) in cases.loss_nodes().items():
        x = cases.drawn("x0", 3, *cases.LATENT[1:])
        with given(lambda x: cases.drawn("noise", *x.shape)):
            loss = instance(node)
            found = loss(
                network, instance(cases.denoiser_node(shift)), lambda _: {"crossattn": cases.context(3)}, x, {}
            )
        yield f"loss/{name}", found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cogvideo", type=Path)
    parser.add_argument("sat", type=Path)
    arguments = parser.parse_args()
    for folder, file in ((arguments.cogvideo, "sat/dit_video_concat.py"), (arguments.sat, "sat/mpu/__init__.py")):
        if not (folder / file).is_file():
            parser.error(f"{folder} has no {file}; expected a clone of the repository that --help names for it")
    torch.set_num_threads(1)
    prepare(arguments.cogvideo, arguments.sat)
    found = {
        name: tensor.contiguous() for part in (dit_tensors, vae_tensors, diffusion_tensors) for name, tensor in part()
    }
    commits = {
        name: subprocess.check_output(["git", "-C", folder, "rev-parse", "HEAD"], text=True).strip()
        for name, folder in (("CogVideo", arguments.cogvideo), ("SwissArmyTransformer", arguments.sat))
    }
    save_file(found, cases.TENSORS, metadata=commits)
    print(f"{cases.TENSORS}: {len(found)} tensors, {cases.TENSORS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
