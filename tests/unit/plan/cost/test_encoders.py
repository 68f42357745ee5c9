"""VAE and T5 in numbers, against the modules."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from cogtune.config.build import build
from cogtune.plan.cost.autoencoder import Autoencoder
from cogtune.plan.cost.text_encoder import XXL, T5Sizes, TextEncoder
from cogtune.runtime.typed_json import from_json
from cogtune.work.load import load_config

CONFIG = Path(__file__).parents[4] / "config"
TINY_T5 = {"vocab_size": 48, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}


class Live(TorchDispatchMode):
    """The most bytes that tensors held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.live = {key: held for key, held in self.live.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out


def vae_of(name: str) -> tuple[Any, Autoencoder]:
    node = load_config([CONFIG / name], check_files=False, partial=True).values["model"]["first_stage_config"]
    node["params"]["ckpt_path"] = None
    with torch.device("meta"):
        return build(node), Autoencoder(node)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["cogvideox_5b.yaml", "tiny/demo.yaml"])
def test_vae_parameters_and_flops(name: str) -> None:
    vae, modelled = vae_of(name)
    assert (modelled.encoder_parameters, modelled.decoder_parameters) == (count(vae.encoder), count(vae.decoder))
    with torch.device("meta"), FlopCounterMode(display=False) as encoding:
        vae.encode(torch.empty(1, 3, 17, 64, 96))
    with torch.device("meta"), FlopCounterMode(display=False) as decoding:
        vae.decode(torch.empty(1, modelled.channels, 5, 8, 12))
    assert modelled.encode_flops(17, 64, 96) == encoding.get_total_flops()
    assert modelled.decode_flops(17, 64, 96) == decoding.get_total_flops()


@pytest.mark.heavy
@pytest.mark.parametrize("size", [(9, 64, 96), (49, 480, 720)])
def test_vae_peak_memory(size: tuple[int, int, int]) -> None:
    vae, modelled = vae_of("cogvideox_5b.yaml")
    frames, height, width = size
    with Live() as encoding, torch.no_grad():
        vae.encode(torch.empty(1, 3, *size, device="meta"))
    latent = (1, modelled.channels, (frames - 1) // 4 + 1, height // 8, width // 8)
    with Live() as decoding, torch.no_grad():
        vae.decode(torch.empty(latent, device="meta"))
    weights = 4 * modelled.parameters
    assert modelled.encode_bytes(*size, 1, 4, workspace=False) - weights == pytest.approx(encoding.peak, rel=0.1)
    assert modelled.decode_bytes(*size, 1, 4) - weights == pytest.approx(decoding.peak, rel=0.25)


def test_vae_peak_memory_on_a_gpu() -> None:
    """Measured on an H200 by torch's allocator: the latents of one clip in bf16, 21,579.7 MiB."""
    _, modelled = vae_of("cogvideox_5b.yaml")
    assert modelled.encode_bytes(49, 480, 720, 1, 2) == pytest.approx(21_579.7 * 2**20, rel=0.05)


@pytest.mark.heavy
@pytest.mark.parametrize("sizes", [asdict(XXL), TINY_T5], ids=["xxl", "tiny"])
def test_text_encoder_parameters_and_flops(sizes: dict[str, Any]) -> None:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(**sizes)
    with torch.device("meta"):
        model = T5EncoderModel(config)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.zeros(1, 16, dtype=torch.long))
    encoder = TextEncoder(from_json(T5Sizes, config.to_dict()))
    assert encoder.parameters == count(model)
    assert encoder.flops(16) == counter.get_total_flops()


def test_text_encoder_of_a_folder(tmp_path: Path) -> None:
    import json

    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder/config.json").write_text(json.dumps(TINY_T5))
    assert TextEncoder.of(tmp_path).width == 32
    assert TextEncoder.of(tmp_path / "nowhere").width == 4096
