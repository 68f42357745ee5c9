"""docs/weights.md, run from top to bottom in a folder that holds tiny weights under the names that it uses."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cogtune.__main__ import main
from cogtune.checkpoints.published import MODELS, T5
from cogtune.commands.weights_get import size_text
from cogtune.model.weights.formats import NetworkWeights, Settings, write
from cogtune.model.weights.lora_formats import pairs_of, to_diffusers_lora
from cogtune.work.load import load_config
from tests.families import diffusers_twin, randomised
from tests.hub import serving
from tests.workflow.weights import make_t5, make_vae

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs" / "weights.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user who has CogVideoX-2B in both forms and a finished LoRA."""
    root = tmp_path_factory.mktemp("weights")
    (root / "config").mkdir()
    config = (REPO / "tests" / "workflow" / "tiny.yaml").read_text()
    (root / "config" / "cogvideox_2b.yaml").write_text(config)
    node = load_config([root / "config" / "cogvideox_2b.yaml"], check_files=False).values["model"]["network_config"]
    base = randomised(node, seed=1).state_dict()
    write("sat", root / "weights/cogvideox-2b-sat/transformer", NetworkWeights(base, node), Settings())
    (root / "assets").mkdir()
    make_vae(root / "assets" / "3d-vae.pt", seed=1)
    make_t5(root / "assets" / "t5", seed=1)
    for folder in ("data/train", "data/valid"):
        (root / folder).mkdir(parents=True)
    _pipeline(root, node, base)
    modules = node["params"]["modules"] | {"lora_config": {"target": "Lora", "params": {"r": 4}}}
    adapted = {**node, "params": {**node["params"], "modules": modules}}
    pairs = pairs_of(randomised(adapted, seed=2).state_dict(), alpha=1)
    export = root / "results" / "mine" / "export"
    export.mkdir(parents=True)
    tensors, metadata = to_diffusers_lora(pairs)
    save_file(tensors, export / "pytorch_lora_weights.safetensors", metadata)
    write("diffusers", root / "results" / "full" / "export" / "transformer", NetworkWeights(base, node), Settings())
    return root


def _pipeline(root: Path, node: dict[str, Any], base: dict[str, torch.Tensor]) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline
    from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
    from transformers import AutoTokenizer, T5EncoderModel

    published: Any = AutoencoderKLCogVideoX
    vae = published(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=node["params"]["out_channels"], layers_per_block=1,
        norm_num_groups=4,
    )  # fmt: skip
    pipe = CogVideoXPipeline(
        tokenizer=AutoTokenizer.from_pretrained(root / "assets" / "t5"),
        text_encoder=T5EncoderModel.from_pretrained(root / "assets" / "t5"),  # pyright: ignore[reportArgumentType]
        vae=vae,
        transformer=diffusers_twin(node, base),  # pyright: ignore[reportArgumentType]
        scheduler=CogVideoXDDIMScheduler(),
    )
    pipe.save_pretrained(root / "weights/cogvideox-2b")
    for part in ("text_encoder", "tokenizer"):  # downloaded once for all models
        (root / "weights/t5-v1_1-xxl").mkdir(exist_ok=True)
        (root / "weights/cogvideox-2b" / part).rename(root / "weights/t5-v1_1-xxl" / part)


BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)


def _from_the_hub(place: Path, words: list[str]) -> None:
    """Run a download against a server that holds the place's own files; those that are there are verified."""
    with serving() as hub:
        folders = [place / "weights/cogvideox-2b", place / "weights/t5-v1_1-xxl"]
        files = {str(path.relative_to(root)): path.read_bytes() for root in folders for path in root.rglob("*.*")}
        hub.add("zai-org/CogVideoX-2b", files)
        command = [sys.executable, "-m", "cogtune", *words]
        done = subprocess.run(command, env=hub.environment(place / "home"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stderr}"


def test_the_page(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(BLOCKS) == 7
    scope: dict[str, Any] = {}  # one session: later blocks use the names of earlier ones
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "docs/weights.md", "exec"), scope)
            continue
        for line in block.splitlines():
            program, *words = shlex.split(line)
            assert program == "cogtune"
            if words[:2] == ["weights", "get"] and "--dry-run" not in words:
                _from_the_hub(place, words)
                continue
            assert main(words) == 0, f"{line}\n{capsys.readouterr().err}"
    assert sorted(name for name in os.listdir(place) if name.startswith(("pytorch", "transformer", "start", "for"))) == [
        "for-the-wrapper", "pytorch_lora_weights-comfyui_lora", "start-here", "transformer-2b", "transformer-merged",
    ]  # fmt: skip


def test_the_models_on_the_page_are_those_of_the_table() -> None:
    rows = [
        f"| `{model.name}` | {size_text(model.diffusers.parts[0][2])} | {size_text(model.diffusers.parts[1][2])} | "
        f"{size_text(T5.parts[0][2])} | {size_text(sum(each.size for each in model.downloads()))} | "
        f"[{model.licence.name}]({model.licence.link}) |"
        for model in MODELS.values()
    ]
    assert re.findall(r"^\| `cogvideox.*$", PAGE, re.MULTILINE) == rows


def test_every_format_and_key_on_the_page_exists() -> None:
    from cogtune.config.schema.args import EXPORT_FORMATS, ArgsSection

    formats = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(formats) == sorted(EXPORT_FORMATS)
    keys = re.findall(r"^  (\w+): ", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0], re.MULTILINE)
    assert set(keys) <= set(ArgsSection.__dataclass_fields__)
