"""As test_replaced.py, for the stages from training on: prompts, their pictures, args.load, and what evaluate reads."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from safetensors.torch import save_file

from cogtune.data.listing import ClipRow, fingerprint
from cogtune.data.store import ShardReader
from cogtune.errors import UserError
from cogtune.model.start import initial_model
from cogtune.stages import evaluate, export, sample, sampled_models, train
from cogtune.stages.execute import execute
from cogtune.stages.job import Job
from cogtune.stages.train import start_of
from cogtune.train import session
from cogtune.work.content_hashes import ContentHashes, Source, proven
from cogtune.work.inputs import TrainInput
from cogtune.work.stage_input import read_input
from tests.unit.data.footage import write_video
from tests.unit.stages.finished import TINY, Finished
from tests.unit.stages.test_replaced import HOW, swap
from tests.workflow.weights import make_vae

pytestmark = pytest.mark.heavy

I2V = TINY.with_name("tiny_i2v.yaml")


@dataclass(frozen=True)
class World:
    """A finished project below ``root``, image to video, which starts from weights and samples a prompt with a picture."""

    root: Path
    finished: Finished

    def job(self, stage: str) -> Job[Any]:
        return self.finished.job(stage)


def picture(path: Path, shift: int) -> Path:
    y, x = np.mgrid[:32, :48]
    iio.imwrite(path, np.stack([x * 3 + shift, y * 5, x + y], axis=2).astype(np.uint8))
    return path


def weights(path: Path, job: Job[Any], factor: float) -> Path:
    state = initial_model(start_of(job)).state_dict()
    save_file({name: (tensor * factor).contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture
def world(tmp_path: Path, project: Path) -> World:
    root = tmp_path / "copy"
    shutil.copytree(project, root)
    return World(root, cut(root))


def cut(root: Path) -> Finished:
    words = [
        "args.input_type=txt",
        f"args.input_file={root}/prompts.txt",
        f"args.load={root}/start.safetensors",
        "args.sampling_controls=[base]",
    ]
    return Finished(root, *words, clips=2, yaml=I2V)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("later") / "project"
    plain = Finished(root, clips=2, yaml=I2V)
    weights(root / "start.safetensors", plain.job("train"), 1.0)
    picture(root / "picture.png", 0)
    (root / "prompts.txt").write_text("caption 0@@picture.png\n")
    finished = cut(root).fill()
    for stage in ("export", "sample"):
        execute(finished.job(stage), None)
    return root


def other_prompts(world: World) -> tuple[Path, Path]:
    (world.root / "other").write_text("caption 1@@picture.png\n")
    return world.root / "prompts.txt", world.root / "other"


def other_picture(world: World) -> tuple[Path, Path]:
    return world.root / "picture.png", picture(world.root / "other.png", 90)


def other_weights(world: World) -> tuple[Path, Path]:
    return world.root / "start.safetensors", weights(world.root / "other", world.job("train"), 0.9)


def other_clip(world: World) -> tuple[Path, Path]:
    return world.root / "data/train/videos/clip0.mp4", write_video(world.root / "other.mp4", seed=7, frames=12)


def other_vae(world: World) -> tuple[Path, Path]:
    make_vae(world.root / "other.pt", seed=9)
    return world.root / "assets/3d-vae.pt", world.root / "other.pt"


Other = Callable[[World], tuple[Path, Path]]
TABLE = [
    ("sample", other_prompts),
    ("sample", other_picture),
    ("sample", other_weights),
    ("sample", other_vae),
    ("export", other_weights),
    ("evaluate", other_clip),
    ("evaluate", other_vae),
]
CHANGED = r"changed (since this job was planned|while it was read); nothing was stored"


def empty(job: Job[Any]) -> None:
    """Take out what the job made."""
    for folder in {job.job_dir(), job.items_dir()}:
        shutil.rmtree(folder, ignore_errors=True)


def made(job: Job[Any]) -> list[str]:
    """What is stored under the job's key: rows, or the files of an export."""
    if job.slice.stage == "export":
        return [path.name for path in job.items_dir().rglob("*.safetensors")]
    return sorted(ShardReader(job.job_dir()).ids())


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("stage", "other"), TABLE, ids=lambda value: getattr(value, "__name__", value))
def test_between_the_cut_and_the_stage(world: World, stage: str, other: Other, how: str) -> None:
    job = world.job(stage)
    empty(job)
    path, new = other(world)
    old = path.read_bytes()
    swap(path, new, how)
    with pytest.raises(UserError, match=CHANGED):
        execute(job, world.root / "receipt.json")
    assert not (world.root / "receipt.json").exists()
    clips = {row.path: row.clip for row in job.manifest()}
    assert not made(job) or (str(path) in clips and clips[str(path)] not in made(job))

    path.write_bytes(old)  # put back, the same job goes on
    execute(job, world.root / "receipt.json")
    assert made(job)


LATE = [
    ("sample", other_prompts, (sample, "select_prompts")),
    ("sample", other_picture, (sample, "load_image")),
    ("sample", other_weights, (sampled_models, "initial_model")),
    ("sample", other_vae, (sampled_models, "build")),
    ("export", other_weights, (export, "Exporter")),
    ("evaluate", other_clip, (evaluate, "load_clip")),
    ("evaluate", other_vae, (evaluate, "build")),
]


@pytest.mark.parametrize(
    ("stage", "other", "at"), LATE, ids=lambda value: getattr(value, "__name__", value) if callable(value) else ""
)
def test_while_it_is_read(
    world: World, stage: str, other: Other, at: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last moment before the reader opens it, with the old time of change."""
    job = world.job(stage)
    empty(job)
    pairs, real = [other(world)], getattr(*at)

    def late(*arguments: object, **more: object) -> object:
        if pairs:
            swap(*pairs.pop(), "renamed over")
        return real(*arguments, **more)

    monkeypatch.setattr(*at, late)
    with pytest.raises(UserError, match=CHANGED):
        execute(job, None)
    rows: list[ClipRow] = job.manifest()
    assert set(made(job)) <= {row.clip for row in rows if not row.name.endswith("clip0.mp4")}


def test_pictures_of_prompts_where_nothing_is_trained(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With args.mode: inference there is no stage `images`, and the pictures are read in another place."""
    job = world.job("sample")
    prompts, _ = sample.prompts_and_variants(job)
    monkeypatch.delitem(job.slice.volatile.jobs, "images")
    assert len(sample._images(job, prompts)) == 1
    swap(*other_picture(world), "renamed over")
    with pytest.raises(UserError, match=rf"args\.input_file: .*{CHANGED}"):
        sample._images(job, prompts)


@pytest.mark.parametrize("key", ["args.load", ""], ids=["weights", "clip"])
def test_what_the_message_advises_is_enough(world: World, key: str) -> None:
    """A replaced clip of the old size and mtime is not seen by a scan; weights are, by their ctime."""
    weights_or_clip = other_weights if key else other_clip
    path, new = weights_or_clip(world)
    if not key:  # of the same size
        new.write_bytes(path.read_bytes()[:-1] + b"?")
    hashes, before = ContentHashes(world.root / "memo.json"), fingerprint({"train": [world.root / "data/train"]})
    old = hashes.source(path, key).content
    swap(path, new, "renamed over")
    with pytest.raises(UserError) as caught, proven([Source(str(path), old, "", key)]):
        pass
    advised = f"To use the new file, run `touch {path}`" if not key else "To use the new file, run again"
    assert advised in str(caught.value)
    if not key:
        assert fingerprint({"train": [world.root / "data/train"]}) == before
        path.touch()
        assert fingerprint({"train": [world.root / "data/train"]}) != before
    assert hashes.source(path, key).content != old


@pytest.mark.parametrize("how", HOW)
def test_weights_that_a_training_starts_from(world: World, how: str) -> None:
    job = world.job("train")
    plan = train.plan_of(job)
    swap(*other_weights(world), how)
    with pytest.raises(UserError, match=rf"args\.load: .*start\.safetensors: {CHANGED}"):
        train.plan_of(job)  # before the ranks start
    with pytest.raises(UserError, match=rf"args\.load: .*start\.safetensors: {CHANGED}"):
        session.trainable_model(plan, read_input(TrainInput, plan.config))  # in each rank
