"""What a plan says about clips before they are decoded."""

from dataclasses import replace

import pytest

from cogtune.data.listing import ClipRow
from cogtune.plan.outlook import outlook_of
from cogtune.work.inputs import PreprocessInput
from tests.unit.plan.world import World

SETTINGS = PreprocessInput(
    video_size=[480, 720], fps=8, max_num_frames=49, skip_frms_num=3, frame_selection="timestamp", workers=1,
    flush_seconds=1.0, flush_megabytes=1.0,
)  # fmt: skip
ROW = ClipRow("a" * 64, "/a.mp4", "a.mp4", "train", "text", "b" * 64, 300, 25.0, 720, 480)


def rows(*changes: dict[str, object]) -> list[ClipRow]:
    return [replace(ROW, clip=f"{i:064x}", name=f"{i}.mp4", **change) for i, change in enumerate(changes)]  # pyright: ignore


def test_good_clips_need_no_word() -> None:
    assert outlook_of(rows({}, {}), SETTINGS).notes == []


def test_short_clips_are_counted() -> None:
    outlook = outlook_of(rows({}, {"frames": 60}, {"frames": 150}), SETTINGS)
    assert len(outlook.unusable) == 2
    (note,) = outlook.notes
    assert note.startswith("2 of 3 clips cannot be used: 49 frames at 8 fps need 6.00 s")
    assert "the shortest, 1.mp4, has 2.40 s" in note


def test_no_clip_is_left() -> None:
    outlook = outlook_of(rows({"frames": 60}, {"frames": 60}), SETTINGS)
    assert outlook.notes == []
    assert outlook.warnings[0].startswith("no clip can be used: ")


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (
            176,
            144,
            ["1 clip is enlarged, up to 4.1 times (0.mp4, 176x144)", "1 clip is cropped, by up to 19% of their height"],
        ),
        (640, 272, ["enlarged, up to 1.8 times", "1 clip is cropped, by up to 36% of their width"]),
        (1440, 960, []),
        (1920, 1080, ["1 clip is cropped, by up to 16% of their width (0.mp4, 1920x1080)"]),
    ],
)
def test_what_enlarges_or_crops_is_said(width: int, height: int, expected: list[str]) -> None:
    text = " ".join(outlook_of(rows({"width": width, "height": height}, {}), SETTINGS).notes)
    assert [part for part in expected if part not in text] == []
    assert bool(text) == bool(expected)


def test_the_plan_counts_them_before_preprocess_and_after(world: World) -> None:
    """The clips of the world have 12 frames at 8 fps; 5 at 2 fps need more than they have."""
    world.edit("48], fps: 8", "48], fps: 2")
    steps = world.steps()
    assert (steps["preprocess"].work.todo, steps["latents"].work.todo, steps["evaluate"].work.todo) == (5, 0, 0)
    assert "no clip can be used" in steps["preprocess"].warnings[0]
    world.edit("48], fps: 2", "48], fps: 8")
    steps = world.steps()
    assert (steps["latents"].work.todo, steps["preprocess"].warnings) == (5, [])
