"""Export writes what loads again: full weights, a LoRA with its strength, the average instead of the last weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cogtune.errors import UserError
from cogtune.model.lora import is_adapter
from cogtune.stages import export
from cogtune.stages.train import start_of
from cogtune.train.result import write_tensors
from cogtune.train.start import initial_model, trained_model
from tests.unit.stages.finished import Finished

LORA = (
    "model.network_config.params.modules.lora_config.target=sat.model.finetune.lora2.LoraMixin",
    "model.network_config.params.modules.lora_config.params.r=2",
    "model.network_config.params.modules.lora_config.params.lora_alpha=3",
)
ONLY_LORA = (*LORA, "model.not_trainable_prefixes=[all]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


def trained(root: Path, *overrides: str, average: bool = False) -> Finished:
    """A store in which `train` is done: every parameter that trains is moved away from its start."""
    made = Finished(root, *overrides)
    train = made.job("train")
    network = initial_model(start_of(train))
    only_adapters = "model.not_trainable_prefixes=[all]" in overrides
    draw = torch.Generator().manual_seed(1)
    names = [n for n, p in network.named_parameters() if p.requires_grad and (is_adapter(n) or not only_adapters)]
    for name, spread in {"model": 0.1, "ema": 0.2}.items():
        moved = {
            n: network.get_parameter(n).detach() + spread * torch.randn(network.get_parameter(n).shape, generator=draw)
            for n in names
        }
        if name == "model" or average:
            write_tensors(train.job_dir() / f"final/{name}.safetensors", moved, {"steps": 6, "run": train.key})
    return made


def test_full_training_gives_a_diffusers_folder(root: Path) -> None:
    job = trained(root).job("export")
    receipt = export.run(job)
    assert (receipt["made"], receipt["reused"], receipt["format"]) == (1, 0, "diffusers")
    assert receipt["max_abs_error"] == 0.0
    config = json.loads((job.job_dir() / "transformer/config.json").read_text())
    assert config["_class_name"] == "CogVideoXTransformer3DModel"
    weights = job.job_dir() / "transformer/diffusion_pytorch_model.safetensors"
    with safe_open(weights, framework="pt") as stored:
        assert json.loads(stored.metadata()["cogtune"])["run"] == job.upstream["train"]
    assert export.run(job)["reused"] == 1


def test_a_lora_keeps_its_strength(root: Path) -> None:
    job = trained(root, *ONLY_LORA).job("export")
    receipt = export.run(job)
    assert receipt["format"] == "diffusers_lora"
    assert receipt["max_abs_error"] <= 1e-6
    path = job.job_dir() / "pytorch_lora_weights.safetensors"
    assert all("lora_" in name for name in load_file(path))
    with safe_open(path, framework="pt") as stored:
        adapter = json.loads(stored.metadata()["lora_adapter_metadata"])
    assert (adapter["transformer.r"], adapter["transformer.lora_alpha"]) == (2, 3)


def test_a_lora_that_trained_with_everything_else_is_folded_in(root: Path) -> None:
    job = trained(root, *LORA).job("export")
    receipt = export.run(job)
    assert receipt["format"] == "diffusers"
    assert receipt["max_abs_error"] <= 1e-5
    assert not any(
        "lora" in name for name in load_file(job.job_dir() / "transformer/diffusion_pytorch_model.safetensors")
    )


def test_the_average_is_exported_when_asked_for(root: Path) -> None:
    made = trained(root, "args.seed=2", "args.ema_sampling=true", average=True)
    export.run(made.job("export"))
    final = made.job("train").job_dir() / "final"
    index = json.loads((made.job("export").job_dir() / "index.json").read_text())
    assert index["source"] == str(final / "ema.safetensors")
    start = start_of(made.job("train"))
    assert export.max_abs_difference(trained_model(start, final / "ema.safetensors"), initial_model(start)) > 0.01


def test_an_average_that_was_not_kept_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"args\.ema_sampling"):
        export.run(trained(root, "args.seed=3", "args.ema_sampling=true").job("export"))


def test_weights_that_come_back_different_fail_the_stage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "merge_lora", lambda state, scale: export_wrongly(state))
    job = trained(root, *LORA, "args.seed=4").job("export")
    with pytest.raises(UserError, match="change the output"):
        export.run(job)
    assert not (job.job_dir() / "index.json").exists()


def export_wrongly(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A merge that forgets the adapters."""
    return {name.replace(".original.", "."): tensor for name, tensor in state.items() if not is_adapter(name)}
