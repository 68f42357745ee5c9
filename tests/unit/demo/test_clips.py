"""The demo's clips are what the README says of them: apart from each other, and from what the VAE never saw."""

import itertools

import numpy as np
import pytest
import torch
from clips import CLIPS
from footage import FRAMES, HELD_OUT, SIZE, Window, clip_pixels, frames_of, random_window

TRAINED = [clip for kind in ("clips", "clips_lora") for clip in CLIPS[kind]]
ALL = [clip for clips in CLIPS.values() for clip in clips]


def test_counts() -> None:
    assert [len(CLIPS[kind]) for kind in ("clips", "clips_lora", "heldout")] == [16, 8, 6]


def test_names_and_captions_are_distinct() -> None:
    assert len({name for name, _, _ in ALL}) == len(ALL)
    assert len({caption for _, _, caption in ALL}) == len(ALL)


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "window"), [clip[:2] for clip in ALL], ids=[clip[0] for clip in ALL])
def test_window_lies_in_its_source_and_on_its_side_of_the_held_out_range(name: str, window: Window) -> None:
    frames, height, width, _ = frames_of(window.source).shape
    assert min(window.first, window.left, window.top) >= 0
    assert window.first + window.span <= frames
    assert window.left + window.width <= width
    assert window.top + window.height <= height
    assert window.width * SIZE[0] == window.height * SIZE[1], "crop is not 3:2"
    first, last = HELD_OUT[window.source]
    if "held" in name:
        assert first <= window.first
        assert window.first + window.span <= last
    else:
        assert window.first + window.span <= first


@pytest.mark.heavy
def test_no_two_clips_are_near() -> None:
    pixels = {name: clip_pixels(window) for name, window, _ in TRAINED}
    assert all(clip.shape == (3, FRAMES, *SIZE) for clip in pixels.values())
    for (name, clip), (other_name, other) in itertools.combinations(pixels.items(), 2):
        psnr_db = 10 * torch.log10(255**2 / (clip - other).square().mean()).item()
        assert psnr_db < 14, f"{name} and {other_name}: {psnr_db:.2f} dB"


@pytest.mark.heavy
@pytest.mark.parametrize("held_out", [False, True])
def test_random_windows_stay_on_their_side(held_out: bool) -> None:
    generator = np.random.default_rng(0)
    for source in HELD_OUT:
        frames, height, width, _ = frames_of(source).shape
        for _ in range(100):
            window = random_window(generator, source, held_out)
            assert window.held_out is held_out
            assert window.first + window.span <= frames
            assert window.left + window.width <= width
            assert window.top + window.height <= height
