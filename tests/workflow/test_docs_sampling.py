"""docs/sampling.md, run from top to bottom in a finished project: with a model, prompts and sizes that a CPU can do."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

from cogtune.__main__ import main
from cogtune.model.weights.lora_formats import pairs_of, to_diffusers_lora
from cogtune.work.load import load_config
from cogtune.work.workspace import Workspace
from tests.families import randomised
from tests.workflow.project import REPO, Project

pytestmark = pytest.mark.workflow
PAGE = (REPO / "docs/sampling.md").read_text()
SMALLER = {
    "a rabbit waves": "sea",
    "a rabbit sleeps": "fog",
    "[480, 720]": "[32, 48]",
    "sampling_num_frames=13": "sampling_num_frames=2",
    "results/mine": "results/tiny",
    "cogtune sample mine": "cogtune sample tiny",
    "--strength 0 0.5 1": "--strength 0 1",  # the project of the other tests has no LoRA
    "strength=0.5": "strength=1",
}


def blocks(kind: str) -> list[str]:
    texts = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    for text, smaller in SMALLER.items():
        texts = [block.replace(text, smaller) for block in texts]
    return texts


@pytest.fixture
def place(untouched: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user with weights, a LoRA file and a file with prompts."""
    root = tmp_path / "project"
    shutil.copytree(untouched.root, root, symlinks=True)
    monkeypatch.chdir(root)
    shutil.copytree(Path("results/tiny/export/transformer").resolve(), "CogVideoX-2b")
    sections: dict[str, Any] = yaml.safe_load(Path("config/tiny.yaml").read_text())
    shutil.copytree("CogVideoX-2b", "weights/cogvideox-2b/transformer")
    sections["model"]["weights_dir"] = "weights/cogvideox-2b"
    Path("config/cogvideox_2b.yaml").write_text(yaml.safe_dump({"model": sections["model"]}))
    for name in ("inference.yaml", "prompts.txt"):
        shutil.copy2(REPO / "config" / name, "config")
    Path("prompts.txt").write_text(blocks("text")[0])
    return root


def write_lora(path: Path) -> None:
    model = load_config(["config/cogvideox_2b.yaml"], check_files=False, partial=True).values["model"]
    params = model["network_config"]["params"]
    modules = params["modules"] | {"lora_config": {"target": "Lora", "params": {"r": 4}}}
    network = randomised(model["network_config"] | {"params": params | {"modules": modules}})
    tensors, metadata = to_diffusers_lora(pairs_of(network.state_dict(), alpha=4))
    save_file(tensors, path, metadata)


def test_the_page(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lora(Path("lora.safetensors"))
    commands = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 6
    for command in commands:
        assert command[0] == "cogtune"
        assert main(command[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    pages = {path.parent.relative_to("results").as_posix() for path in Path("results").glob("*/prompts/*/index.html")}
    assert pages == {
        "tiny/prompts/sea",
        "tiny/prompts/prompts",
        "by-hand/prompts/lora-sea",
        "by-hand/prompts/cogvideox-2b-sea",
    }
    assert (place / "results/tiny/prompts/prompts/videos/01-sea_strength-1_seed-1.mp4").is_file()
    for block in blocks("python"):
        exec(block, {})
    assert Path("rabbit.mp4").is_file()

    experiments = yaml.safe_load(blocks("yaml")[0])
    Path("config/config.yaml").write_text(yaml.safe_dump({"ranks": 2, **experiments}))
    sample = Workspace.load("config/config.yaml").slices("looked_at")["sample"]
    assert Path(f"results/.receipts/sample-{sample.key}.json").is_file(), "the last command is another job"
