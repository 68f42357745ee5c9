"""Every place where a name from outside becomes a path, under names that want to lead out of it.

Each place either raises UserError or names a path inside its own folder; nothing is removed or written beside it. The
remover is a stub, and a guard stands behind it.
"""

import argparse
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cogtune.checkpoints.folders import read_header
from cogtune.checkpoints.training import FORMAT, Ranges, read_record
from cogtune.commands import store_verify
from cogtune.commands.stage import open_workspace
from cogtune.commands.store import drop
from cogtune.config.plugins import allow_plugins
from cogtune.data.listing import read_manifest
from cogtune.data.prompt_file import read_prompts
from cogtune.data.store import ShardReader
from cogtune.errors import UserError
from cogtune.evaluation.report.gather import strips
from cogtune.evaluation.sample_figures import Sample, SampleFigures
from cogtune.runtime.sums import check_sums
from cogtune.stages import export, report, sweep
from cogtune.stages.job import Job
from cogtune.train import checkpoint
from cogtune.work.batches import BatchMemo
from cogtune.work.slices import Slice
from cogtune.work.volatile import ReportRun, SweepRun, UpstreamJob, Volatile
from cogtune.work.workspace import Workspace
from tests.removal import only_below

pytestmark = pytest.mark.heavy

KEY = "0123456789ab"
Place = Callable[[Path, str], Iterable[Path]]
PLACES: dict[str, Place] = {}
THROUGH_NO_LINK = {"dropped_key", "image_of_a_prompt", "published_report", "published_sweep"}
"""The others read through links below their folder, which a Hugging Face snapshot is made of; or they only name a folder."""


def place(given: Place) -> Place:
    """Register ``given(root, name)``: uses ``name`` as that place does; returns the paths that came of it."""
    PLACES[given.__name__] = given
    return given


@place
def dropped_key(root: Path, name: str) -> Iterable[Path]:
    return drop(root, name, root / "results")


def _workspace(root: Path, content: Any, **asked: str) -> Iterable[Path]:
    path = root / "config.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML, and holds any text
    found = Workspace.load(path, asked)
    return [root / name for name in (*found.experiments, *found.sweeps)]


@place
def experiment(root: Path, name: str) -> Iterable[Path]:
    return _workspace(root, {"experiments": {name: {"base": ["a.yaml"]}}})


@place
def sweep_name(root: Path, name: str) -> Iterable[Path]:
    return _workspace(
        root, {"experiments": {"a": {"base": ["a.yaml"]}}, "sweep": {name: {"experiment": "a", "grid": {"k": [1]}}}}
    )


@place
def swept_value(root: Path, name: str) -> Iterable[Path]:
    return _workspace(
        root,
        {
            "experiments": {"a": {"base": ["a.yaml"]}},
            "sweep": {"s": {"experiment": "a", "grid": {name or "k": [name]}}},
        },
    )


@place
def run(root: Path, name: str) -> Iterable[Path]:
    return _workspace(root, {"experiments": {"a": {"base": ["a.yaml"]}}}, run=name, base="a.yaml")


@place
def name_by_hand(root: Path, name: str) -> Iterable[Path]:
    asked = argparse.Namespace(workflow=root / "none.yaml", ranks=1, name=name, base=["a.yaml"])
    return [root / known for known in open_workspace(asked, []).experiments]


@place
def image_of_a_prompt(root: Path, name: str) -> Iterable[Path]:
    if "@@" in name or len(f"x{name}x".splitlines()) > 1:
        return []
    path = root / "prompts.txt"
    path.write_text(f"a dog@@{name}\n", encoding="utf-8", errors="replace")
    with mock.patch("pathlib.Path.cwd", return_value=root):
        return [line.image for line in read_prompts(path, with_images=True) if line.image]


def _manifest(root: Path, **changed: str) -> Iterable[Path]:
    row = {
        "clip": "0" * 64,
        "path": f"{root}/a.mp4",
        "name": "a.mp4",
        "split": "train",
        "caption": "",
        "caption_id": "0" * 64,
    }
    row |= {"frames": 1, "fps": 8.0, "width": 8, "height": 8}
    path = root / "manifest.jsonl"
    path.write_text(json.dumps(row | changed) + "\n")
    return [root / f"{row.clip[:16]}.mp4" for row in read_manifest(path)]


@place
def clip_of_a_manifest(root: Path, name: str) -> Iterable[Path]:
    return _manifest(root, clip=name)


@place
def caption_of_a_manifest(root: Path, name: str) -> Iterable[Path]:
    return _manifest(root, caption_id=name)


def _weights(root: Path) -> Path:
    folder = root / "weights"
    folder.mkdir(exist_ok=True)
    return folder


@place
def shard_of_an_index(root: Path, name: str) -> Iterable[Path]:
    folder = _weights(root)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    return [source.file for source in read_header(folder).tensors.values()]  # pyright: ignore[reportAttributeAccessIssue]


@place
def iteration_of_latest(root: Path, name: str) -> Iterable[Path]:
    folder = _weights(root)
    (folder / "latest").write_bytes(os.fsencode(name) if name.isprintable() else name.encode("utf-8", "surrogatepass"))
    try:
        return [source.file for source in read_header(folder).tensors.values()]  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        (folder / "latest").unlink()


@place
def member_of_a_torch_file(root: Path, name: str) -> Iterable[Path]:
    path, name = root / "weights.pt", name.replace("\0", "%")  # zip ends a name there
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"x{name}/data.pkl".encode("utf-8", "replace").decode(), b"\x80\x02}q\x00.")
        archive.writestr(f"x{name}/data/0".encode("utf-8", "replace").decode(), b"0")
    return [source.file for source in read_header(path).tensors.values()]  # pyright: ignore[reportAttributeAccessIssue]


def _job(root: Path, **changed: str) -> Job[Any]:
    jobs = {"scan": UpstreamJob(**{"stage": "scan", "key": KEY, "items": KEY} | changed)}
    return Job(Slice("preprocess", {"values": {}}, Volatile(jobs=jobs), root / ".runs/tiny.json"), root)


def _published(root: Path, stage: str, volatile: Volatile) -> Job[Any]:
    return Job(Slice(stage, {"values": {}}, volatile, root / ".runs/tiny.json"), root)


@place
def upstream_key(root: Path, name: str) -> Iterable[Path]:
    return [_job(root, key=name).job_dir("scan")]


@place
def upstream_items(root: Path, name: str) -> Iterable[Path]:
    return [_job(root, items=name).items_dir("scan")]


@place
def upstream_stage(root: Path, name: str) -> Iterable[Path]:
    return [_job(root, stage=name).job_dir("scan")]


@place
def upstream_slice(root: Path, name: str) -> Iterable[Path]:
    return [_job(root, key=name).upstream_job("scan").store]


@place
def run_of_another_experiment(root: Path, name: str) -> Iterable[Path]:
    return [_job(root, run=name).upstream_job("scan").store]


@place
def format_of_an_export(root: Path, name: str) -> Iterable[Path]:
    entry = {"path": name, "bytes": 1, "max_abs_error": 0.0, "own_error": 0.0, "foreign": {"loader": "none"}}
    (root / "index.json").write_text(json.dumps({"format": "f", "formats": {"f": entry}}))
    return [export.exported(root)]


@place
def published_report(root: Path, name: str) -> Iterable[Path]:
    return [report.target(_published(root, "report", Volatile(report=ReportRun(name, ""))))]


@place
def published_sweep(root: Path, name: str) -> Iterable[Path]:
    return [sweep.target(_published(root, "sweep", Volatile(sweep=SweepRun(name))))]


@place
def sample_of_a_report(root: Path, name: str) -> Iterable[Path]:
    figures = [SampleFigures(Sample(name, "p", "tuned", ""))]
    return [video.path for strip in strips(figures, root, root, root) for video in strip.videos]


@place
def prompt_of_a_report(root: Path, name: str) -> Iterable[Path]:
    figures = [SampleFigures(Sample("i", name, "tuned", ""))]
    return [video.path for strip in strips(figures, root, root, root) for video in strip.videos]


@place
def plugin(root: Path, name: str) -> Iterable[Path]:
    allow_plugins({name: str(root)})
    return []


@place
def shard_of_a_store(root: Path, name: str) -> Iterable[Path]:
    folder = root / "latents" / KEY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").write_text(json.dumps({"format": "cogtune-index-1", "shards": {name: ["row"]}}))
    return [Path(reader.ids().pop()) for reader in [ShardReader(folder)] if reader.ids()]


@place
def file_of_a_checkpoint(root: Path, name: str) -> Iterable[Path]:
    folder = root / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"shapes": {"w": [1]}, "ranges": {name: {"w": [0, 1]}}, "states": [], "scalars": {}}
    values |= {"whole": {}, "whole_keys": {}, "groups": [], "counters": {}, "files": {name: "0" * 64}}
    record = {"format": FORMAT, "step": 1, "ranks": 1} | values
    (folder / "record.json").write_text(json.dumps(record))
    return [found.path for found in [checkpoint.newest(root / "checkpoints")] if found]


@place
def weights_of_a_checkpoint(root: Path, name: str) -> Iterable[Path]:
    list(file_of_a_checkpoint(root, name))
    folder = root / "checkpoints" / "step-00000001"
    with suppress(ValueError):
        Ranges(folder, read_record(folder))
    return []


@place
def verified_key(root: Path, name: str) -> Iterable[Path]:
    store_verify.run(root, name, True, root / "results")
    return []


@place
def file_of_checksums(root: Path, name: str) -> Iterable[Path]:
    (root / "SHA256SUMS").write_bytes(f"{'0' * 64}  {name}\n".encode("utf-8", "surrogatepass"))
    return [root for _ in range(check_sums(root))]


@place
def memo_of_a_batch(root: Path, name: str) -> Iterable[Path]:
    BatchMemo(root, name).write(2, KEY)
    return [BatchMemo(root, name).path]


@place
def training_of_a_batch(root: Path, name: str) -> Iterable[Path]:
    (root / f"slices/{KEY}.batch.json").write_text(json.dumps({"global_batch_size": 2, "train": name}))
    found = BatchMemo(root, KEY).read()
    return [root / "train" / found[1]] if found else []


NAMED = ["", ".", "..", "/", "//", "~", "../kept", "../../kept", "/etc/passwd", "{kept}", "{kept}/file", "link", "link/file", "loop",
         "a/../../kept", "./a", "a//b", "a/", "\0", "a\0b", "a\nb", "x" * 300, "\udcff", "..\\kept", "C:\\a", "%2e%2e/kept", "-rf", "*",
         "$HOME", KEY, f"{KEY}\n", f"../latents/{KEY}", f"{KEY}/..", "０１２３４５６７８９ab", "CON", " ", "über", "fifo"]  # fmt: skip
PIECES = st.sampled_from(
    ["..", ".", "/", "kept", "link", "loop", "\\", "a", KEY, "\0", "\n", "~", "{kept}", "\u202e", "latents", " "]
)


BESIDE = ["file", "file.mp4", "file.png", "kept", "mp_rank_00_model_states.pt"]


def _fill(folder: Path) -> None:
    """What each place would take if a name led here: weights, an iteration of a SAT folder, samples."""
    save_file({"a": torch.zeros(1)}, folder / "file")
    torch.save({"module": {"a": torch.zeros(1)}}, folder / "mp_rank_00_model_states.pt")
    for name in ("file.mp4", "file.png"):
        (folder / name).touch()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``root`` with the folder of a stage, links out, a loop and a FIFO in it; ``kept`` beside it."""
    base = tmp_path_factory.mktemp("hostile")
    root = base / "root"
    for name in ("root/results/.receipts", "root/latents", "root/slices", "root/train", "kept"):
        (base / name).mkdir(parents=True)
    _fill(base / "kept")
    (root / "latents" / KEY).mkdir()
    for folder in (root, root / "weights", root / "latents"):
        folder.mkdir(exist_ok=True)
        (folder / "link").symlink_to(base / "kept")
        (folder / "loop").symlink_to(folder / "loop")
        os.mkfifo(folder / "fifo")
    with mock.patch.object(shutil, "rmtree") as remover:
        yield root
    assert {Path(call.args[0]) for call in remover.call_args_list} <= {root / "latents" / KEY}
    assert sorted(path.name for path in base.rglob("*") if not path.is_relative_to(root)) == BESIDE


@pytest.mark.parametrize("where", PLACES)
@settings(max_examples=15, deadline=None)
@given(name=st.lists(PIECES, max_size=6).map("".join))
def test_no_name_leads_out(world: Path, where: str, name: str) -> None:
    _hold(world, where, name)


@pytest.mark.parametrize("where", PLACES)
def test_no_known_trick_leads_out(world: Path, where: str) -> None:
    for name in NAMED:
        _hold(world, where, name)


def _hold(world: Path, where: str, name: str) -> None:
    name = name.format(kept=world.parent / "kept")
    try:
        with only_below(world):
            found = list(PLACES[where](world, name))
    except UserError as error:
        refusal = str(error)
        found = []
    else:
        refusal = ""
    assert "\0" not in refusal.encode().decode()  # it can be printed
    for path in found:
        real = os.path.realpath(path) if where in THROUGH_NO_LINK else os.path.normpath(path)
        assert Path(real).is_relative_to(world), (where, name, path)
