"""Keys of `data`: how clips are read (upstream: data_video.SFTDataset)."""

from dataclasses import dataclass

from cogtune.config.schema.common import FPS, FRAMES, PIXELS, REQUIRED, Range, key


@dataclass(kw_only=True)
class SFTDatasetParams:
    """Folders of clips with their captions (docs/data.md)."""

    video_size: list[int] = key(
        REQUIRED,
        "size of the clips: resized to cover it, then centre-cropped",
        items="height, width",
        unit="pixels",
        range=PIXELS,
    )
    fps: float = key(REQUIRED, "frames per second of the clips", unit="1/s", range=FPS)
    max_num_frames: int = key(REQUIRED, "maximum number of frames of a clip; 4k + 1", unit="frames", range=FRAMES)
    skip_frms_num: float = key(
        3,
        "source frames skipped at both ends",
        unit="frames",
        range=Range(0, 1_000_000, "a million frames are four hours at 60 fps"),
    )
    frame_selection: str = key(
        "timestamp", "timestamp: exactly this fps; stride: upstream's integer stride (30 fps give 10, not 8)",
        choices=["timestamp", "stride"],
    )  # fmt: skip
    allow_missing_caption: bool = key(False, "true: a clip without a caption gets an empty one; false: it is rejected")
    follow_links: bool = key(True, "true: follow symbolic links to clips, captions and folders; false: reject them")
