"""A file that is replaced after the keys were cut: the stage ends with one sentence, and nothing new is under the old key."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogtune.config.plugins import allow_plugins
from cogtune.data import clips
from cogtune.data.store import ShardReader
from cogtune.errors import UserError
from cogtune.stages import latents, preprocess, text
from cogtune.stages.execute import execute
from cogtune.stages.job import Job
from tests.unit.data.footage import write_video
from tests.unit.stages.caching import Caching
from tests.workflow.weights import make_t5, make_vae

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Caching:
    """Two clips, scanned and preprocessed."""
    made = Caching(tmp_path_factory.mktemp("replaced"))
    made.add("a", "a wave", seed=1)
    made.add("b", "a stripe", seed=2)
    made.run("scan")
    made.run("preprocess")
    return made


def swap(path: Path, other: Path, how: str) -> None:
    """``other`` in place of ``path``; with the old mtime, except for a plain overwrite."""
    before = path.stat()
    if how == "renamed over":
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(path)
    else:
        path.write_bytes(other.read_bytes())
        other.unlink()
    if how == "mtime put back":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def world(cached: Caching, tmp_path: Path) -> Caching:
    """A copy whose files a test may replace."""
    shutil.copytree(cached.root, tmp_path / "copy")
    made = Caching.__new__(Caching)
    made.__dict__ |= cached.__dict__ | {"root": tmp_path / "copy", "store": tmp_path / "copy/store"}
    made.hashes = type(cached.hashes)(made.store / "hashes.json")
    made.run("scan")  # the clips lie elsewhere now
    return made


def other_clip(world: Caching) -> tuple[Path, Path]:
    return world.root / "data/train/videos/a.mp4", write_video(world.root / "other.mp4", seed=7, frames=12)


def other_vae(world: Caching) -> tuple[Path, Path]:
    make_vae(world.root / "other.pt", seed=9)
    return world.root / "assets/3d-vae.pt", world.root / "other.pt"


def other_t5(world: Caching) -> tuple[Path, Path]:
    make_t5(world.root / "other", seed=9)
    return world.root / "assets/t5/model.safetensors", world.root / "other/model.safetensors"


def rows(world: Caching, job: Job[Any]) -> set[str]:
    return ShardReader(job.items_dir()).ids()


TABLE = [("preprocess", other_clip), ("latents", other_clip), ("latents", other_vae), ("text", other_t5)]
HOW = ["overwritten", "mtime put back", "renamed over"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("stage", "other"), TABLE, ids=lambda value: getattr(value, "__name__", value))
def test_between_the_cut_and_the_stage(
    world: Caching, stage: str, other: Callable[[Caching], tuple[Path, Path]], how: str
) -> None:
    job = world.job(stage)
    if stage == "preprocess":
        shutil.rmtree(job.items_dir())
    path, new = other(world)
    old = path.read_bytes()
    swap(path, new, how)
    with pytest.raises(UserError, match="changed since this job was planned"):
        execute(job, world.root / "receipt.json")
    assert not (world.root / "receipt.json").exists()
    replaced = {"other_clip": {row.clip for row in job.manifest() if row.name.endswith("a.mp4")}}
    assert not rows(world, job) & replaced.get(other.__name__, rows(world, job))

    path.write_bytes(old)  # put back, the same job goes on and gives what it would have given
    assert execute(job, None).made >= 1


@pytest.mark.parametrize(
    ("stage", "other", "at"),
    [
        ("preprocess", other_clip, (preprocess, "describe_clip")),
        ("latents", other_clip, (latents, "load_clip")),
        ("latents", other_vae, (latents, "build")),
        ("text", other_t5, (text, "build")),
    ],
    ids=lambda value: getattr(value, "__name__", value) if not isinstance(value, tuple) else value[1],
)
def test_while_it_is_read(
    world: Caching,
    stage: str,
    other: Callable[[Caching], tuple[Path, Path]],
    at: tuple[object, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the last moment before the reader opens it, with the old size's stamp put back where it can be."""
    job = world.job(stage)
    if stage == "preprocess":
        shutil.rmtree(job.items_dir())
    pairs = [other(world)]
    real = getattr(*at)

    def late(*arguments: object, **more: object) -> object:
        if pairs:
            swap(*pairs.pop(), "renamed over")
        return real(*arguments, **more)

    monkeypatch.setattr(*at, late)
    with pytest.raises(UserError, match=r"changed while it was read|changed since this job was planned"):
        execute(job, None)
    assert len(rows(world, job)) <= 1, "the row of the other clip, at most"


def test_a_clip_that_is_cut_off_while_it_is_read_is_no_reject(world: Caching, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.job("preprocess")
    shutil.rmtree(job.items_dir())
    path = world.root / "data/train/videos/a.mp4"

    def late(video: Path, *more: object) -> object:
        if video == path:
            path.write_bytes(path.read_bytes()[:100])
        return clips.describe_clip(video, *more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(preprocess, "describe_clip", late)
    with pytest.raises(UserError, match=r"a\.mp4: changed while it was read"):
        execute(job, None)
    assert len(rows(world, job)) <= 1


def test_after_a_touch_the_work_goes_on(world: Caching) -> None:
    job = world.job("latents")
    for path in (world.root / "assets/3d-vae.pt", world.root / "data/train/videos/a.mp4"):
        path.touch()
    assert execute(job, None).made == 2


def test_a_plugin_that_is_edited_after_the_cut(world: Caching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "plugins/proven_plugin.py"
    plugin.parent.mkdir()
    plugin.write_text(
        "class Guider:\n"
        "    def __init__(self, scale: float, exp: float, num_steps: int):\n        self.factor = scale\n"
        "    def scale(self, step, timestep, sampler_steps):\n        return self.factor\n"
    )
    monkeypatch.syspath_prepend(str(plugin.parent))
    allow_plugins(["proven_plugin"], plugin.parent)
    world.overrides = ["model.sampler_config.params.guider_config.target=proven_plugin.Guider"]
    job = world.job("sample")
    assert [source.key for source in job.sources()] == ["plugins.proven_plugin"]
    plugin.write_text(plugin.read_text().replace("self.factor = scale", "self.factor = 7 * scale"))
    with pytest.raises(UserError, match=r"plugins\.proven_plugin: .*changed since this job was planned"):
        execute(job, None)
