"""What the scan stage leaves, and when it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from cogtune.data.listing import read_manifest
from cogtune.errors import UserError
from cogtune.runtime.digest import data_digests
from cogtune.runtime.saved import read_sealed
from cogtune.stages import scan
from cogtune.stages.job import Job
from cogtune.work.slices import Slice
from cogtune.work.volatile import Volatile
from tests.unit.data.footage import damaged, write_video

pytestmark = pytest.mark.heavy


class Data:
    """A scan job over ``root`` without the rest of a config."""

    def __init__(self, root: Path) -> None:
        self.root, self.values = root, {"args": {"max_reject_share": 0.5}, "data": {"target": "SFTDataset"}}
        write_video(root / "train/videos/good.mp4")
        self.caption("train", "good", "first line\nsecond line")

    def caption(self, split: str, name: str, text: str) -> None:
        label = self.root / split / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)

    def job(self) -> Job[Any]:
        identity = {"format": "cogtune-slice-1", "stage": "scan", "version": 1, "values": self.values, "upstream": {}}
        roots = {
            f"args.{split}_data": [str(self.root / split)]
            for split in ("train", "valid")
            if (self.root / split).exists()
        }
        return Job(Slice("scan", identity, Volatile(roots)), self.root / "store")


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def test_what_it_leaves(data: Data) -> None:
    write_video(data.root / "valid/videos/held.mp4", seed=1, size=(32, 64))
    data.caption("valid", "held", "held out")
    damaged(data.root / "train/videos/good.mp4", data.root / "train/videos/bad.mp4", "half")
    data.caption("train", "bad", "x")
    job = data.job()
    assert scan.run(job).to_json() == {"made": 2, "reused": 0, "train": 1, "valid": 1, "rejected": 1, "other_files": 0}
    rows = read_manifest(job.job_dir() / "manifest.jsonl")
    assert [(row.split, row.name, row.caption) for row in rows] == [
        ("train", "videos/good.mp4", "first line second line"),
        ("valid", "videos/held.mp4", "held out"),
    ]
    assert Path(rows[0].path).is_absolute()
    digests = data_digests((row.clip, row.caption, row.split) for row in rows)
    assert read_sealed(job.job_dir() / "digests.json", {}, "") == digests
    (reject,) = map(json.loads, (job.job_dir() / "rejects.jsonl").read_text().splitlines())
    assert (reject["name"], reject["split"]) == ("videos/bad.mp4", "train")
    found = json.loads((job.job_dir() / "report.json").read_text())
    assert found["clips"] == {"train": 1, "valid": 1}
    assert found["sizes"] == {"48x32": 1, "64x32": 1}
    assert found["aspects"] == {"2:1": 1, "3:2": 1}
    assert found["captions"]["of_several_lines"] == 1
    assert found["rejects"] == {"cut short": 1}
    assert scan.run(job).made == 0


def test_links_and_other_files_are_told(data: Data) -> None:
    """A link and its target stand in manifest and report; other files are lines of the rejects, and reject nothing."""
    (data.root / "blob").write_bytes((data.root / "train/videos/good.mp4").read_bytes() + b"\0" * 8)
    (data.root / "train/videos/linked.mp4").symlink_to("../../blob")
    data.caption("train", "linked", "behind a link")
    for name in ("a.gif", "b.gif", "prompt.txt"):
        (data.root / "train" / name).touch()
    job = data.job()
    counts = scan.run(job)
    assert (counts.train, counts.rejected, counts.other_files) == (2, 0, 3)
    link, target = str(data.root / "train/videos/linked.mp4"), str(data.root / "blob")
    assert [(row.path, row.target) for row in read_manifest(job.job_dir() / "manifest.jsonl") if row.target] == [
        (link, target)
    ]
    found = json.loads((job.job_dir() / "report.json").read_text())
    assert found["links"] == {"clips": 1, "first": [[link, target]]}
    assert found["other_files"] == {"*.gif": 2, "lists": 1}
    lines = [json.loads(line) for line in (job.job_dir() / "rejects.jsonl").read_text().splitlines()]
    assert [(line["name"], line["files"]) for line in lines] == [("*.gif", 2), ("lists", 1)]
    assert "ffmpeg -i a.gif a.mp4" in lines[0]["reason"]
    assert "prompt.txt" in lines[1]["reason"]
    assert "docs/data.md" in lines[1]["reason"]


@pytest.mark.parametrize("name", ["clips.csv", "prompt.txt", "train/metadata.csv"])
def test_a_list_is_named_where_captions_are_missing(data: Data, name: str) -> None:
    (data.root / "train/labels/good.txt").unlink()
    (data.root / "train/train").mkdir()
    (data.root / "train" / name).touch()
    with pytest.raises(UserError, match=f"{name}.*: not read; captions are read from metadata.csv.*docs/data.md"):
        scan.run(data.job())


def test_too_many_rejects(data: Data) -> None:
    for name in ("x", "y"):
        damaged(data.root / "train/videos/good.mp4", data.root / f"train/videos/{name}.mp4", "text")
        data.caption("train", name, "x")
    with pytest.raises(
        UserError, match=r"2 of 3 files are rejected, more than args.max_reject_share \(0.5\)"
    ) as caught:
        scan.run(data.job())
    assert "x.mp4: not a video" in str(caught.value)
    assert (data.job().job_dir() / "rejects.jsonl").exists()
    assert not (data.job().job_dir() / "digests.json").exists()
    data.values["args"]["max_reject_share"] = 0.7
    assert scan.run(data.job()).rejected == 2


def test_no_videos(data: Data) -> None:
    (data.root / "train/videos/good.mp4").unlink()
    with pytest.raises(UserError, match="no videos in"):
        scan.run(data.job())


def test_nothing_to_train_on(data: Data) -> None:
    (data.root / "train/labels/good.txt").unlink()
    write_video(data.root / "valid/videos/held.mp4", seed=1)
    data.caption("valid", "held", "held out")
    with pytest.raises(UserError, match="no usable clip") as caught:
        scan.run(data.job())
    assert "no caption" in str(caught.value)
