"""The cache as training reads it, and the folders as a notebook does."""

import gc
from pathlib import Path

import pytest
import torch

from cogtune.config.build import build
from cogtune.config.schema.data import SFTDatasetParams
from cogtune.data.dataset import CachedDataset, SFTDataset, settings_of
from cogtune.data.rows import Pair
from cogtune.data.store import ShardWriter
from cogtune.errors import UserError
from tests.unit.data.footage import copy, frame_numbers


@pytest.fixture
def caches(tmp_path: Path) -> tuple[Path, Path]:
    with ShardWriter(tmp_path / "latents", flush_megabytes=0) as latents:
        for index in range(3):
            latents.add(f"clip{index}", {"moments": torch.full((8, 3, 2, 2), float(index)).bfloat16()})
    with ShardWriter(tmp_path / "text") as text:
        text.add("caption", {"context": torch.ones(4, 6)})
    return tmp_path / "latents", tmp_path / "text"


def test_pairs(caches: tuple[Path, Path]) -> None:
    data = CachedDataset(*caches, [Pair(clip, "caption") for clip in ("clip2", "clip0", "clip2")])
    assert len(data) == 3
    assert [float(data.moments(index).float().mean()) for index in range(3)] == [2, 0, 2]
    assert data.moments(0).dtype == torch.bfloat16
    assert data.context(1).shape == (4, 6)


@pytest.mark.heavy
def test_what_was_read_outlives_the_data_set(caches: tuple[Path, Path]) -> None:
    data = CachedDataset(*caches, [Pair("clip1", "caption")])
    moments = data.moments(0)
    del data
    gc.collect()
    assert (moments == 1).all()


@pytest.mark.parametrize(("pair", "what"), [(Pair("none", "caption"), "latents"), (Pair("clip0", "none"), "text")])
def test_a_missing_row(caches: tuple[Path, Path], pair: Pair, what: str) -> None:
    with pytest.raises(UserError, match=f"{what}: no row none"):
        CachedDataset(*caches, [Pair("clip0", "caption"), pair])


def test_the_folder_itself(footage: Path, tmp_path: Path) -> None:
    copy(footage / "plain.mp4", tmp_path / "videos/a.mp4")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("a square grows")
    params = {"video_size": [32, 48], "fps": 4, "max_num_frames": 9, "skip_frms_num": 0}
    data: SFTDataset = build({"target": "data_video.SFTDataset", "params": params}, root=tmp_path)
    (item,) = data
    assert item["mp4"].shape == (9, 3, 32, 48)
    assert -1 <= float(item["mp4"].min()) < float(item["mp4"].max()) <= 1
    pixels_FHWC = ((item["mp4"] + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert frame_numbers(pixels_FHWC) == list(range(0, 18, 2))
    assert (item["txt"], item["num_frames"], item["fps"]) == ("a square grows", 9, 4)


def test_settings_from_another_dataclass() -> None:
    keys = {"video_size": [32, 48], "fps": 8.0, "max_num_frames": 9, "skip_frms_num": 3, "frame_selection": "stride"}
    found = settings_of(SFTDatasetParams(**keys, allow_missing_caption=True))
    assert vars(found) == keys
    assert settings_of(found) == found
