import math

import pytest
import torch

from cogtune.errors import UserError
from cogtune.evaluation import metrics


def video(seed: int, frames: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (frames, 3, 16, 24), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("difference", [1, 5, 20])
def test_psnr_of_a_constant_error(difference: int):
    dark = torch.full((3, 3, 16, 24), 100, dtype=torch.uint8)
    assert metrics.psnr_db(dark + difference, dark) == pytest.approx(20 * math.log10(255 / difference), abs=1e-5)


def test_equal_videos_have_the_largest_figures():
    assert metrics.psnr_db(video(0), video(0)) == metrics.PSNR_CAP_DB
    assert metrics.ssim(video(0), video(0)) == pytest.approx(1)
    assert metrics.ssim(video(0), video(1)) < 0.3


def test_distances_are_exact_sums_of_squares():
    videos, clip = [video(seed) for seed in range(3)], video(9)
    expected = [int((v.long() - clip.long()).square().sum()) for v in videos]
    assert metrics.squared_distances(videos, clip).tolist() == expected
    assert metrics.squared_distances([], clip).tolist() == []


def test_distances_of_more_than_one_chunk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "_CHUNK", 1000)
    assert metrics.squared_distances([video(1)], video(2)).item() == (video(1).long() - video(2).long()).square().sum()


def test_other_shapes_are_refused():
    for measure in (metrics.psnr_db, metrics.ssim, lambda a, b: metrics.squared_distances([a], b)):
        with pytest.raises(UserError, match=r"\(3, 3, 16, 24\).*\(2, 3, 16, 24\)"):
            measure(video(0), video(0, frames=2))


def test_nearest_gives_a_tie_to_the_own_clip():
    assert metrics.nearest({"a": 3, "b": 1, "c": 2}, own="c") == "b"
    assert metrics.nearest({"a": 1, "b": 1}, own="b") == "b"
    assert metrics.nearest({"b": 1, "a": 1, "c": 2}, own="c") == "a"
