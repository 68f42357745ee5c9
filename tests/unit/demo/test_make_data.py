"""What the demo's scripts write, in small."""

from pathlib import Path

import imageio.v3 as iio
import make_data
import numpy as np
import pytest
import torch
from clips import CLIPS
from footage import clip_pixels
from torch.nn import functional as F
from train_vae import orthogonal

pytestmark = pytest.mark.heavy


def test_a_clip_is_written_the_same_twice_and_is_the_window(tmp_path: Path) -> None:
    _, window, _ = CLIPS["clips"][-1]
    paths = [tmp_path / "a" / "clip.mp4", tmp_path / "b" / "clip.mp4"]
    for path in paths:
        make_data.write_clip(window, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    video = iio.imread(paths[0], plugin="FFMPEG")
    width, height = make_data.PIXELS
    assert video.shape == (window.span, height, width, 3)
    written = F.interpolate(torch.from_numpy(video[:1]).permute(0, 3, 1, 2).float(), (64, 96), mode="area")
    assert (written[0] - clip_pixels(window)[:, 0]).abs().mean() < 6, "grey levels"


def test_t5_tells_the_captions_apart_and_holds_them_all(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    captions = [caption for clips in CLIPS.values() for _, _, caption in clips]
    make_data.write_t5(tmp_path / "a")
    make_data.write_t5(tmp_path / "b")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    ids = tokenizer(captions, padding="max_length", max_length=40, return_tensors="pt").input_ids
    assert ids.shape == (len(captions), 40), "a caption is longer than text_length of config/tiny"
    assert tokenizer.unk_token_id not in ids
    with torch.no_grad():
        embedded = T5EncoderModel.from_pretrained(tmp_path / "a").eval()(input_ids=ids).last_hidden_state.flatten(1)
    distances = torch.cdist(embedded, embedded) / embedded.norm(dim=1).mean()
    assert distances[~torch.eye(len(captions), dtype=torch.bool)].min() > 0.5


def test_nothing_is_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_data, "TARGET", tmp_path)
    (tmp_path / ".made-from").write_text(make_data.digest())
    make_data.main()
    assert [path.name for path in tmp_path.iterdir()] == [".made-from"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shape", [(8, 48), (48, 8), (16, 16)])
def test_muon_makes_singular_values_near_1(shape: tuple[int, int]) -> None:
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
