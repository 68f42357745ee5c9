"""Pictures: framed as clips are, and refused with their name."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from cogtune.data.clips import resize_and_crop
from cogtune.data.frames import fit
from cogtune.data.images import load_image
from cogtune.errors import UserError


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [(32, 48), (64, 48), (100, 40), (31, 200)])
def test_is_framed_as_a_frame_of_a_clip(tmp_path: Path, size: tuple[int, int]) -> None:
    path, pixels_HWC = tmp_path / "a.png", picture(*size)
    iio.imwrite(path, pixels_HWC)
    found = load_image(path, [32, 48])
    expected = resize_and_crop(torch.from_numpy(pixels_HWC), fit(size, [32, 48]), [32, 48])
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)


def test_transparency_palettes_and_grey_become_rgb(tmp_path: Path) -> None:
    for mode in ("RGBA", "P", "L", "LA"):
        Image.fromarray(picture(32, 48)).convert(mode).save(tmp_path / f"{mode}.png")
        assert load_image(tmp_path / f"{mode}.png", [32, 48]).shape == (3, 32, 48)


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees
    Image.fromarray(picture(48, 32)).rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(load_image(tmp_path / "a.png", [48, 32]), torch.from_numpy(picture(48, 32)).permute(2, 0, 1))


def test_a_picture_that_git_lfs_did_not_fetch(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(UserError, match=rf"a\.png: is a Git LFS pointer, .*run `git lfs pull` in {tmp_path}"):
        load_image(tmp_path / "a.png", [32, 48])


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n truncated"])
def test_what_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a.png: cannot be read as an image"):
        load_image(tmp_path / "a.png", [32, 48])


def test_a_picture_cut_short(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.jpg", picture(320, 480))
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a.jpg: cannot be read"):
        load_image(tmp_path / "a.jpg", [32, 48])


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iio.imwrite(tmp_path / "a.png", picture(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"a.png: cannot be read"):
        load_image(tmp_path / "a.png", [32, 48])
