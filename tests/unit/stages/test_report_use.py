"""The lines for diffusers that a report prints, run as they stand in the folder that the report names, on real files."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cogtune.config.build import params_of
from cogtune.evaluation.report import gather
from cogtune.evaluation.report.report_data import ReportRow, Use
from cogtune.model.lora import is_adapter
from cogtune.model.start import initial_model
from cogtune.stages import export
from cogtune.stages.report_setup import About
from cogtune.stages.train import start_of
from cogtune.train.result import write_tensors
from cogtune.work.results import read_index
from cogtune.work.volatile import ReportRun
from tests.families import diffusers_twin
from tests.unit.stages.finished import Finished
from tests.workflow.weights import make_t5

pytestmark = pytest.mark.heavy
LORA = (
    "model.network_config.params.modules.lora_config.target=sat.model.finetune.lora2.LoraMixin",
    "model.network_config.params.modules.lora_config.params.r=2",
    "model.not_trainable_prefixes=[all]",
)
LOCAL = (
    "args.load=weights/tiny/transformer",
    "model.conditioner_config.params.emb_models.0.params.model_dir=weights/t5",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a pipeline and T5 in folders of their own, as `cogtune weights get` makes them."""
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline
    from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler

    root = tmp_path_factory.mktemp("use")
    start = start_of(Finished(root).job("train"))
    base: Any = initial_model(start)
    published: Any = AutoencoderKLCogVideoX
    vae = published(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=params_of(start.network_config).out_channels,
        layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "vae": vae, "scheduler": CogVideoXDDIMScheduler()}
    twin: Any = diffusers_twin(start.network_config, base.state_dict())
    CogVideoXPipeline(transformer=twin, **parts).save_pretrained(root / "weights/tiny")
    make_t5(root / "weights/t5", seed=1)
    return root


def printed(project: Path, *overrides: str) -> Use:
    """ "Use it" of an experiment whose training and export are done."""
    made = Finished(project, *overrides)
    train = made.job("train")
    state: dict[str, torch.Tensor] = initial_model(start_of(train)).state_dict()
    trained = {name: tensor for name, tensor in state.items() if is_adapter(name)} or state
    write_tensors(train.job_dir() / "final/model.safetensors", trained, {"steps": 6, "run": train.key})
    export.run(made.job("export"))
    results = project / "results" / "mine"
    results.mkdir(parents=True, exist_ok=True)
    (results / "export").unlink(missing_ok=True)
    (results / "export").symlink_to(made.job("export").items_dir())
    about = About(made.job("report"), ReportRun("mine", ""), [ReportRow('a "fox"', "fox", [])])
    index = read_index(made.job("export").items_dir())
    return about.use(gather.exports(index, index.formats))


@pytest.mark.parametrize("kind", [LORA, ()], ids=["lora", "full"])
def test_the_lines_run_and_the_files_are_there(
    project: Path, kind: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    made = printed(project, *LOCAL, *kind)
    assert 'from_pretrained("weights/tiny", ' in made.diffusers
    assert 'T5EncoderModel.from_pretrained("weights/t5", ' in made.diffusers
    assert Path(made.root) == project
    exec(compile(made.diffusers, "report.html", "exec"), {})
    video = project / "sample.mp4"
    assert video.stat().st_size > 0
    video.unlink()
    assert made.comfyui
    assert all((project / row.file).exists() for row in made.comfyui)
    if kind:
        assert made.comfyui[0].file == "results/mine/export/comfyui_lora.safetensors"


def test_without_a_local_pipeline_the_lines_name_what_has_to_be_replaced(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    made = printed(project, *LORA)
    assert 'from_pretrained("base-pipeline", ' in made.diffusers
    assert any("Replace base-pipeline" in note for note in made.notes)
