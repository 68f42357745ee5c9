import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogtune.sampling.video import write_mp4

SCRIPT = Path(__file__).parents[3] / "demo" / "make_picture.py"


def results(folder: Path, names: list[str]) -> Path:
    """per_sample.json and videos of one clip for each name, tuned and base."""
    rows, rng = [], np.random.default_rng(0)
    for i, name in enumerate(names):
        clip, prompt, title = f"{i:064x}", f"prompt{i}", f"{i:02d}-{name}"
        write_mp4(folder / "clips" / f"{title}_clip.mp4", rng.integers(0, 255, (5, 32, 48, 3), dtype=np.uint8), 8)
        for variant in ("tuned", "base"):
            video = rng.integers(0, 255, (5, 32, 48, 3), dtype=np.uint8)
            write_mp4(folder / "samples" / f"{title}_{variant}.mp4", video, 8)
            file = f"{title}_{variant}.mp4"
            row = {"prompt": prompt, "variant": variant, "clip": clip, "name": f"videos/{name}.mp4", "file": file}
            rows.append(row)
    (folder / "per_sample.json").write_text(json.dumps(rows))
    return folder


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--results", str(folder), "--out", str(folder / "demo.gif")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.heavy
def test_only_clips_that_may_be_shown(tmp_path: Path):
    done = run(results(tmp_path, ["bbb-one", "phone", "bbb-two"]))
    assert done.returncode == 0, done.stderr
    assert "2 clips" in done.stdout
    with Image.open(tmp_path / "demo.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 5
        assert picture.size[0] == 64 + 2 * (2 * 48 + 8)


@pytest.mark.heavy
@pytest.mark.parametrize("names", [None, ["phone"]])
def test_nothing_to_show(tmp_path: Path, names: list[Any] | None):
    if names is not None:
        results(tmp_path, names)
    done = run(tmp_path)
    assert done.returncode == 1
    assert "per_sample.json" in done.stderr
