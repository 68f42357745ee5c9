"""A working directory of its own: the repo's Snakefile over the tiny config and clips made here."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

REPO = Path(__file__).resolve().parents[2]
COPIED = ("Snakefile", "workflow", "profiles", "Makefile", "pyproject.toml", "constraints.txt", "environment.yml")
STAGES = ("scan", "preprocess", "latents", "images", "text", "train", "export", "sample", "evaluate")


@dataclass(frozen=True)
class Project:
    """``root`` is laid out as a clone of the repo would be, with one experiment named tiny."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config" / "tiny.yaml"

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run it to the end with everything it printed in the error if it fails."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", *arguments]
        done = subprocess.run(command, cwd=self.root, env=environment(), capture_output=True, text=True, timeout=1800)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        return done

    def receipts(self) -> dict[str, dict[str, Any]]:
        """Receipts by file name."""
        return {path.name: json.loads(path.read_text()) for path in (self.root / "results/.receipts").glob("*.json")}

    def stamps(self) -> dict[str, int]:
        """When each receipt and published marker was written: what did not run keeps its stamp."""
        found = [*(self.root / "results/.receipts").glob("*.json"), *(self.root / "results").glob("*/.published-*")]
        return {path.name: path.stat().st_mtime_ns for path in found}

    def edit(self, old: str, new: str, path: Path | None = None) -> None:
        """Replace text in a file (the config unless named); it must be there exactly once."""
        path = path or self.config
        text = path.read_text()
        assert text.count(old) == 1, f"{path}: {old!r} stands there {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def metrics(self) -> bytes:
        return (self.root / "results/tiny/metrics.json").read_bytes()


def environment() -> dict[str, str]:
    """The tests' interpreter first on PATH, one thread, nothing from a hub."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def make_clip(path: Path, seed: int, frames: int = 12, options: Sequence[str] = ()) -> None:
    """A small moving pattern, 8 frames a second; ``seed`` makes it unlike the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(np.arange(48), np.arange(32))
    phase = np.random.default_rng(seed).uniform(0, 6, size=3)
    moving = [[127 + 120 * np.sin(x / (3 + seed) + y / 9 + t / 3 + p) for p in phase] for t in range(frames)]
    video = np.stack(moving).transpose(0, 2, 3, 1).astype(np.uint8)
    iio.imwrite(path, video, fps=8, codec="libx264", output_params=["-crf", "12", *options], macro_block_size=1)


def add_clip(root: Path, name: str, seed: int, caption: str) -> None:
    make_clip(root / "videos" / f"{name}.mp4", seed)
    label = root / "labels" / f"{name}.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text(caption)


def add_broken(videos: Path) -> None:
    """What a download leaves behind: cut off (moov first, so it opens and decodes), empty, and no video at all."""
    whole = videos / "truncated.mp4"
    make_clip(whole, 4, frames=120, options=["-movflags", "+faststart"])
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("not a video")
    for name in ("truncated", "empty", "text"):
        (videos.parent / "labels" / f"{name}.txt").write_text(f"a {name} file")


def lay_out(root: Path) -> Project:
    """Copy the workflow, make two training clips, one validation clip, and random weights in the real formats."""
    for name in COPIED:
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, root / name)
        elif source.exists():
            shutil.copy2(source, root / name)
    (root / "config").mkdir()
    shutil.copy2(Path(__file__).parent / "tiny.yaml", root / "config/tiny.yaml")
    (root / "config/config.yaml").write_text("ranks: 2\nexperiments:\n  tiny:\n    base: [config/tiny.yaml]\n")
    add_clip(root / "data/train", "wave", 1, "a wave rolls over the sand")
    add_clip(root / "data/train", "stripes", 2, "stripes move to the left")
    add_clip(root / "data/valid", "held", 5, "a pattern that nobody trained on")
    add_broken(root / "data/train/videos")
    script = [sys.executable, "-m", "tests.workflow.weights", str(root / "assets")]
    subprocess.run(script, cwd=REPO, env=environment(), check=True)
    return Project(root)
