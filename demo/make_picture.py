"""Makes docs/demo.gif for the README from results/demo: clip, before and after, side by side and moving.

Only Big Buck Bunny clips (names begin with bbb) are shown: its licence allows the picture to be committed.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROWS = (("clip", "clip"), ("before", "base"), ("after", "tuned"))
CREDIT = "footage: Big Buck Bunny, (c) Blender Foundation, CC BY 3.0"
MOST_BYTES = 1_500_000
SCALE, GAP, MARGIN = 2, 8, 64
INK, GROUND = (52, 55, 62), (255, 255, 255)


def read(path: Path) -> np.ndarray:
    """All frames of a small mp4, uint8 (F, H, W, 3)."""
    return imageio.imread(path, plugin="FFMPEG")[..., :3]


def shown_clips(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the tuned samples of Big Buck Bunny clips whose untuned sample exists as well, by name."""
    untuned = {row["prompt"] for row in rows if row["variant"] == "base"}
    tuned = [row for row in rows if row["variant"] == "tuned" and Path(row.get("name") or "").name.startswith("bbb")]
    return sorted((row for row in tuned if row["prompt"] in untuned), key=lambda row: row["name"])


def videos_of(row: dict[str, Any], results: Path) -> list[np.ndarray]:
    """Clip, before, after: each (F, H, W, 3), enlarged without smoothing."""
    title = row["file"].removesuffix("_tuned.mp4")
    folders = {"clip": "clips", "base": "samples", "tuned": "samples"}
    paths = [results / folders[kind] / f"{title}_{kind}.mp4" for _, kind in ROWS]
    return [read(path).repeat(SCALE, 1).repeat(SCALE, 2) for path in paths]


def canvas(columns: list[list[np.ndarray]]) -> list[Image.Image]:
    """One picture per frame: a column for each clip, a labelled row for each of `ROWS`."""
    frames, height, width, _ = columns[0][0].shape
    size = (MARGIN + len(columns) * (width + GAP), len(ROWS) * (height + GAP) + 20)
    font = ImageFont.load_default(15)
    pictures = []
    for frame in range(frames):
        picture = Image.new("RGB", size, GROUND)
        draw = ImageDraw.Draw(picture)
        for y, (label, _) in enumerate(ROWS):
            top = y * (height + GAP)
            draw.text((0, top + height // 2 - 9), label, fill=INK, font=font)
            for x, column in enumerate(columns):
                picture.paste(Image.fromarray(column[y][frame]), (MARGIN + x * (width + GAP), top))
        draw.text((MARGIN, size[1] - 18), CREDIT, fill=INK, font=ImageFont.load_default(12))
        pictures.append(picture)
    return pictures


def save_gif(pictures: list[Image.Image], path: Path, fps: float) -> int:
    """Write an endless GIF with one palette for all frames; returns its size in bytes."""
    palette = pictures[0].quantize(192, dither=Image.Dither.NONE)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, optimize=True)
    return path.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/demo.gif"))
    parser.add_argument("--clips", type=int, default=5, help="at most this many columns")
    parser.add_argument("--fps", type=float, default=8.0)
    arguments = parser.parse_args()
    source = arguments.results / "per_sample.json"
    if not source.exists():
        print(f"{source}: not there; run `make demo` first", file=sys.stderr)
        return 1
    rows = shown_clips(json.loads(source.read_text()))
    if not rows:
        print(f"{source}: no sample of a clip whose name begins with bbb, with its `base` control", file=sys.stderr)
        return 1
    step = max(1, len(rows) // arguments.clips)
    columns = [videos_of(row, arguments.results) for row in rows[::step][: arguments.clips]]
    while (size := save_gif(canvas(columns), arguments.out, arguments.fps)) > MOST_BYTES and len(columns) > 1:
        columns.pop()
    print(f"{arguments.out}: {len(columns)} clips, {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
