"""Export writes what loads again: full weights, a LoRA with its strength, the average instead of the last weights."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cogtune.checkpoints import read_header
from cogtune.errors import UserError
from cogtune.model.lora import is_adapter
from cogtune.model.start import initial_model
from cogtune.model.weights import foreign, formats, load_weights, lora_formats
from cogtune.plan.counts import Counts
from cogtune.plan.history import History
from cogtune.stages import export
from cogtune.stages.job import Job
from cogtune.stages.train import start_of
from cogtune.train.result import write_tensors
from cogtune.work.inputs import TrainInput
from cogtune.work.results import read_index
from tests.unit.stages.finished import Finished

pytestmark = pytest.mark.heavy

LORA = (
    "model.network_config.params.modules.lora_config.target=sat.model.finetune.lora2.LoraMixin",
    "model.network_config.params.modules.lora_config.params.r=2",
    "model.network_config.params.modules.lora_config.params.lora_alpha=3",
)
POSITIONS = "model.network_config.params.modules.pos_embed_config.params"
ONLY_LORA = (*LORA, "model.not_trainable_prefixes=[all]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


def changed_by(job: Job[Any]) -> float:
    """Largest difference that the training made to the output, by what was exported."""
    start, device = start_of(job.upstream_job("train", TrainInput)), torch.device("cpu")
    before: Any = initial_model(start)
    after: Any = initial_model(start)
    probe = foreign.probe_of(before)
    load_weights(after, export.exported(job.items_dir()))
    return float((foreign.output(after, probe, device) - foreign.output(before, probe, device)).abs().max())


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
    counts = export.run(job)
    assert (counts.made, counts.reused, counts.format) == (1, 0, "diffusers")
    assert counts.max_abs_error <= 1e-5
    assert float(counts.foreign["diffusers"]) <= 1e-4
    config = json.loads((job.items_dir() / "transformer/config.json").read_text())
    assert config["_class_name"] == "CogVideoXTransformer3DModel"
    weights = job.items_dir() / "transformer/diffusion_pytorch_model.safetensors"
    with safe_open(weights, framework="pt") as stored:
        assert json.loads(stored.metadata()["cogtune"])["run"] == job.upstream["train"]
    assert export.run(job).reused == 1


@pytest.mark.parametrize(("lora", "form"), [((), "sat"), (ONLY_LORA, "sat_lora")], ids=["full", "lora"])
def test_a_network_that_diffusers_lacks_is_exported_as_sat(root: Path, lora: tuple[str, ...], form: str) -> None:
    """diffusers has one interpolation factor for rows and columns."""
    job = trained(root, f"{POSITIONS}.height_interpolation=1.5", f"{POSITIONS}.width_interpolation=1.25", *lora).job(
        "export"
    )
    receipt = export.run(job)
    assert receipt.format == form
    assert receipt.max_abs_error <= 1e-5
    assert changed_by(job) > 1e-3


def test_a_lora_keeps_its_strength(root: Path) -> None:
    job = trained(root, *ONLY_LORA).job("export")
    counts = export.run(job)
    assert counts.format == "diffusers_lora"
    assert set(counts.foreign) == {"diffusers_lora", "comfyui_lora"}
    assert counts.max_abs_error <= 1e-5
    assert float(counts.foreign["diffusers_lora"]) <= 1e-4
    assert changed_by(job) > 1e-3
    path = job.items_dir() / "pytorch_lora_weights.safetensors"
    assert all("lora_" in name for name in load_file(path))
    with safe_open(path, framework="pt") as stored:
        adapter = json.loads(stored.metadata()["lora_adapter_metadata"])
    assert (adapter["transformer.r"], adapter["transformer.lora_alpha"]) == (2, 3)


def test_a_lora_that_trained_with_everything_else_is_folded_in(root: Path) -> None:
    job = trained(root, *LORA).job("export")
    counts = export.run(job)
    assert counts.format == "diffusers"
    assert counts.max_abs_error <= 1e-5
    assert not any(
        "lora" in name for name in load_file(job.items_dir() / "transformer/diffusion_pytorch_model.safetensors")
    )


def test_the_average_is_exported_when_asked_for(root: Path) -> None:
    made = trained(root, "args.seed=2", "args.ema_sampling=true", average=True)
    export.run(made.job("export"))
    final = made.job("train").job_dir() / "final"
    index = json.loads((made.job("export").items_dir() / "index.json").read_text())
    assert index["source"] == str(final / "ema.safetensors")
    assert changed_by(made.job("export")) > 0.01


def test_an_average_that_was_not_kept_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"args\.ema_sampling"):
        export.run(trained(root, "args.seed=3", "args.ema_sampling=true").job("export"))


def test_weights_that_come_back_different_fail_the_stage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "merge_lora", lambda state, scale: export_wrongly(state))
    job = trained(root, *LORA, "args.seed=4").job("export")
    with pytest.raises(UserError, match="change the output"):
        export.run(job)
    assert not (job.items_dir() / "index.json").exists()


def export_wrongly(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A merge that forgets the adapters."""
    return {name.replace(".original.", "."): tensor for name, tensor in state.items() if not is_adapter(name)}


ALL = ("diffusers", "sat", "merged", "diffusers_lora", "folded_lora", "peft", "comfyui_lora", "kohya", "sat_lora")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_format_of_a_lora_comes_back(root: Path, precision: str) -> None:
    asked = (f"args.export_formats=[{','.join(ALL)}]", f"args.export_precision={precision}", "args.seed=5")
    job = trained(root, *ONLY_LORA, *asked).job("export")
    counts = export.run(job)
    assert counts.made == len(ALL)
    assert counts.max_abs_error <= 2e-5
    index = json.loads((job.items_dir() / "index.json").read_text())
    for name in ("diffusers", "diffusers_lora", "folded_lora", "peft"):
        assert index["formats"][name]["foreign"]["loader"].startswith("diffusers ")
        assert index["formats"][name]["foreign"]["max_abs_error_at_one_epsilon"] <= 2e-5
    assert index["formats"]["kohya"]["foreign"]["loader"] == "none"
    dtype = {"fp32": "F32", "bf16": "BF16"}[precision]
    for name, entry in index["formats"].items():
        header = read_header(job.items_dir() / entry["path"])
        found = {tensor.dtype for key, tensor in header.tensors.items() if not key.endswith(".alpha")}
        assert found == ({dtype, "F32"} if name == "folded_lora" else {dtype}), name  # times 3/2 is not exact in bf16
        noted = json.loads(header.metadata["cogtune"])
        assert noted["run"] == job.upstream["train"]
        assert {"config", "data", "base", "steps", "license"} <= noted.keys()


def test_another_format_is_added_and_nothing_downstream_changes(root: Path) -> None:
    first = trained(root, *ONLY_LORA, "args.seed=6")
    export.run(first.job("export"))
    folder = first.job("export").items_dir()
    before = (folder / "pytorch_lora_weights.safetensors").stat().st_mtime_ns
    second = Finished(root, *ONLY_LORA, "args.seed=6", "args.export_formats=[kohya]")
    assert second.job("export").items_dir() == folder
    assert second.job("export").key != first.job("export").key
    assert second.job("sample").key == first.job("sample").key
    counts = export.run(second.job("export"))
    assert (counts.made, counts.reused) == (1, 2)
    assert (folder / "kohya_lora.safetensors").is_file()
    assert (folder / "pytorch_lora_weights.safetensors").stat().st_mtime_ns == before


def test_the_export_of_an_earlier_version_gets_the_file_for_comfyui_only(root: Path) -> None:
    """Its job has another key, so Snakemake runs it; the folder and all that is in it stay."""
    made = trained(root, *ONLY_LORA, "args.seed=11")
    job = made.job("export")
    export.run(job)
    folder = job.items_dir()
    index = read_index(folder)
    (folder / index.formats.pop("comfyui_lora").path).unlink()
    index.write(folder)
    before = (folder / "pytorch_lora_weights.safetensors").stat().st_mtime_ns
    todo, total, _ = Counts(History(made.store, made.root / "results")).formats(job.slice)
    assert (todo, total) == (1, 1)
    counts = export.run(job)
    assert (counts.made, counts.reused) == (1, 1)
    assert (folder / "comfyui_lora.safetensors").is_file()
    assert (folder / "pytorch_lora_weights.safetensors").stat().st_mtime_ns == before
    assert Counts(History(made.store, made.root / "results")).formats(job.slice)[0] == 0


def test_a_large_folder_is_written_in_shards_with_their_index(root: Path) -> None:
    job = trained(root, "args.seed=7", "args.export_shard_gigabytes=0.00003").job("export")
    assert float(export.run(job).foreign["diffusers"]) <= 1e-4
    folder = job.items_dir() / "transformer"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}


def test_a_library_that_is_not_there_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(foreign, "version", absent)
    counts = export.run(trained(root, "args.seed=8").job("export"))
    assert counts.foreign == {"diffusers": "not checked: diffusers is not installed"}
    assert counts.max_abs_error == 0.0


def test_the_foreign_loader_is_believed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that we read well and diffusers reads otherwise fails the stage: here, one whose strength it cannot see."""
    monkeypatch.setattr(lora_formats, "METADATA_KEY", "somewhere_else")
    monkeypatch.setattr("cogtune.checkpoints.lora.METADATA_KEY", "somewhere_else")
    job = trained(root, *ONLY_LORA, "args.seed=9").job("export")
    with pytest.raises(UserError, match="change the output"):
        export.run(job)


def test_lr_zero_exports_exactly_the_base(root: Path) -> None:
    """Adapters as they begin (B is zero): the reloaded LoRA changes no bit of the output."""
    made = Finished(root, *ONLY_LORA, "args.seed=10")
    train = made.job("train")
    network = initial_model(start_of(train))
    adapters = {n: p.detach() for n, p in network.named_parameters() if is_adapter(n)}
    write_tensors(train.job_dir() / "final/model.safetensors", adapters, {"steps": 6, "run": train.key})
    export.run(made.job("export"))
    assert changed_by(made.job("export")) == 0.0


def test_a_reload_that_does_nothing_fails_the_stage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file goes over the network that it came from, so an idle reload must not find the trained adapters there."""
    job = trained(root, *ONLY_LORA, "args.seed=9").job("export")
    monkeypatch.setattr(export, "load_weights", lambda network, path: None)
    with pytest.raises(UserError, match="change the output"):
        export.run(job)
