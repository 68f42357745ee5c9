"""Seconds of `cogtune plan` for N clips: `python bench/plan.py [1000 1000000]`.

For each N it makes a store in which the scan is done and half of the caches are (rows without content), and times the
command as a user runs it, in a process of its own. Of this, what listing the data folder takes is the file system's:
with `--files` that folder holds an empty file for every clip and caption (a million clips: two million files, which take
minutes to make), without it one.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cogtune.data.listing import ClipRow, fingerprint
from cogtune.data.shards import UNCHECKED as FORMAT
from cogtune.data.store import row_ids
from cogtune.runtime.digest import data_digests
from cogtune.work.workspace import Workspace

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))
from tests.layouts import empty_t5  # noqa: E402
from tests.workflow.weights import make_vae  # noqa: E402

TINY = REPO / "tests/workflow/tiny.yaml"
T5 = {"vocab_size": 48, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
PER_SHARD = 500
WORDS = "a person walks along a street in the evening while the camera follows at some distance, number"


def lay_out(root: Path, clips: int, real_files: bool) -> None:
    """A working directory with config, weights that fit it (the check reads their headers), and a data folder."""
    for folder in ("assets", "data/train/videos", "data/train/labels", "data/valid", "config"):
        (root / folder).mkdir(parents=True)
    make_vae(root / "assets/3d-vae.pt", seed=0)
    empty_t5(root / "assets/t5", **T5)
    shutil.copy(TINY, root / "config/tiny.yaml")
    (root / "config/config.yaml").write_text("experiments:\n  tiny:\n    base: [config/tiny.yaml]\n")
    for i in range(clips if real_files else 1):
        for kind, suffix in (("videos", "mp4"), ("labels", "txt")):
            folder = root / "data/train" / kind / f"{i // 1000:05d}"
            if i % 1000 == 0:
                folder.mkdir()
            os.close(os.open(folder / f"{i:08d}.{suffix}", os.O_CREAT | os.O_WRONLY))


def fill_store(root: Path, clips: int, cached: int) -> None:
    """The scan of ``clips`` pairs, and caches of the first ``cached`` of them."""
    rows = [row(i) for i in range(clips)]
    workspace = Workspace.load(root / "config/config.yaml")
    scan = workspace.resolver("tiny").scan()
    folder = workspace.store / "scan" / scan.key
    folder.mkdir(parents=True)
    with (folder / "manifest.jsonl").open("w") as stream:
        for one in sorted(rows, key=lambda one: (one.split, one.clip)):
            stream.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")
    digests = data_digests((one.clip, one.caption, one.split) for one in rows)
    (folder / "digests.json").write_text(json.dumps(digests))
    receipt = workspace.resolver("tiny").place.receipt(scan)
    receipt.parent.mkdir(parents=True, exist_ok=True)
    receipt.write_text(json.dumps({"stage": "scan", "key": scan.key, "made": 0, "reused": clips}))
    parts = workspace.slices("tiny")
    for stage in ("preprocess", "latents", "text"):
        names = [one.caption_id if stage == "text" else one.clip for one in rows[:cached]]
        shards(workspace.store / stage / parts[stage].items_key, names)


def shards(folder: Path, names: list[str]) -> None:
    """Rows without content, and their index."""
    folder.mkdir(parents=True)
    for start in range(0, len(names), PER_SHARD):
        some = names[start : start + PER_SHARD]
        tensors = {f"{name}/x": np.zeros(1, np.float32) for name in some}
        meta = {"format": FORMAT, "meta": json.dumps({name: {} for name in some})}
        save_file(tensors, folder / f"{start:032d}.safetensors", meta)
    row_ids(folder)


def row(i: int) -> ClipRow:
    clip, caption = hashlib.sha256(f"clip {i}".encode()).hexdigest(), f"{WORDS} {i}"
    caption_id = hashlib.sha256(caption.encode()).hexdigest()
    name, split = f"videos/{i // 1000:05d}/{i:08d}.mp4", "valid" if i % 50 == 49 else "train"
    return ClipRow(clip, f"/data/{name}", name, split, caption, caption_id, 81, 16.0, 1360, 768)


def timed(root: Path) -> float:
    """Wall-clock seconds of the command."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "cogtune", "plan", "--format", "json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = time.perf_counter() - started
    stages = json.loads(done.stdout)["experiments"][0]["stages"]
    steps = ", ".join(f"{one['stage']} {one['todo']:,} of {one['total']:,}" for one in stages[1:4])
    print(f"    plan          {seconds:7.2f} s   ({steps})", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=int, default=[1000, 1_000_000])
    parser.add_argument("--files", action="store_true", help="make a file for every clip and every caption")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    for clips in arguments.clips:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            lay_out(root, clips, arguments.files)
            os.chdir(root)
            fill_store(root, clips, clips // 2)
            print(f"{clips:,} clips, half of them cached", flush=True)
            started = time.perf_counter()
            fingerprint({"train": [root / "data/train"], "valid": [root / "data/valid"]})
            print(f"    of it listing {time.perf_counter() - started:7.2f} s", flush=True)
            for _ in range(arguments.runs):
                timed(root)
            os.chdir("/")


if __name__ == "__main__":
    main()
