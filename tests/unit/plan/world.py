"""A workspace whose runs are made up: a plan reads receipts, rows, records and manifests, whoever wrote them."""

import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cogtune.commands.plan import survey_all
from cogtune.data.listing import ClipRow, write_manifest
from cogtune.data.shards import UNCHECKED as FORMAT
from cogtune.plan.survey import Step, Survey
from cogtune.runtime.atomic import write_json
from cogtune.runtime.digest import data_digests
from cogtune.runtime.machines import Device, Machine
from cogtune.runtime.saved import write_sealed
from cogtune.work.results import PeakMemory, TrainSummary
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES
from cogtune.work.workspace import Workspace
from tests.layouts import empty_t5
from tests.workflow.weights import make_vae

TINY = Path(__file__).parents[2] / "workflow" / "tiny.yaml"
T5 = {"vocab_size": 48, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
CPU = Machine(Device("CPU", 1e11, 1e11, 16e9, gpu=False))
GPU = Machine(Device("H100", 989e12, 67e12, 80e9), 2)


@functools.cache
def _vae(seed: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        make_vae(Path(folder) / "vae.pt", seed)
        return (Path(folder) / "vae.pt").read_bytes()


class World:
    """Clips are text files whose content is their hash; `run` does what the workflow would leave behind."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self.results = root, root / "store", root / "results"
        for folder in ("assets/t5", "data/train/videos", "data/train/labels", "data/valid/videos", "data/valid/labels"):
            (root / folder).mkdir(parents=True)
        self.weights(0)
        empty_t5(root / "assets/t5", **T5)
        self.config = root / "tiny.yaml"
        shutil.copy(TINY, self.config)
        self.workflow = root / "config.yaml"
        self.experiments("tiny")
        for i in range(4):
            self.clip(f"clip{i}", f"caption {i}")
        self.clip("held", "held out", "valid")

    def experiments(self, *names: str, **more: str) -> None:
        """Write the workflow config: ``names`` on the tiny file; ``more``: name -> its `set`."""
        lines = [f"  {name}: {{base: [{self.config}], set: [{more.get(name, '')}]}}" for name in [*names, *more]]
        places = f"store_dir: {self.store}\nresults_dir: {self.results}\nranks: 2\n"
        self.workflow.write_text(places + "experiments:\n" + "\n".join(lines) + "\n")

    def clip(self, name: str, caption: str, split: str = "train") -> None:
        for folder in ("videos", "labels"):
            (self.root / f"data/{split}/{folder}").mkdir(parents=True, exist_ok=True)
        (self.root / f"data/{split}/videos/{name}.mp4").write_text(f"video {name}")
        (self.root / f"data/{split}/labels/{name}.txt").write_text(caption)

    def weights(self, seed: int) -> None:
        """VAE weights that fit the config, others for another seed."""
        (self.root / "assets/3d-vae.pt").write_bytes(_vae(seed))

    def edit(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert text.count(old) == 1, old
        self.config.write_text(text.replace(old, new))

    def ranks(self, count: int) -> None:
        """Another machine."""
        self.workflow.write_text(re.sub(r"ranks: \d+", f"ranks: {count}", self.workflow.read_text()))

    def batch(self) -> int:
        """The global batch that the training would be cut with."""
        return self.slices()["train"].identity["values"]["args"]["global_batch_size"]

    def open(self) -> Workspace:
        """Read the configs as a new process does."""
        return Workspace.load(self.workflow)

    def scan(self, workspace: Workspace, name: str) -> None:
        """What the scan stage leaves, receipt included."""
        resolver = workspace.resolver(name)
        receipt = resolver.place.receipt(resolver.scan())
        if receipt.exists():
            return
        args = resolver.config.values["args"]
        roots = [(split, self.root / root) for split in ("train", "valid") for root in args[f"{split}_data"]]
        rows = [self._row(path, split) for split, root in roots for path in sorted((root / "videos").iterdir())]
        folder = self.store / "scan" / resolver.scan().key
        write_manifest(folder / "manifest.jsonl", rows)
        write_json(folder / "digests.json", data_digests((row.clip, row.caption, row.split) for row in rows))
        write_sealed(folder / "report.json", {"rejected": [], "others": []})
        write_json(receipt, {"stage": "scan", "key": resolver.scan().key, "made": len(rows), "reused": 0})

    def plan(self, *names: str, machine: Machine = CPU) -> list[Survey]:
        """Surveys of the experiments, of all by default."""
        workspace = self.open()
        surveys, failed = survey_all(workspace, names or list(workspace.experiments), machine, self.scan)
        assert not failed, failed
        return surveys

    def steps(self, name: str = "tiny", machine: Machine = CPU) -> dict[str, Step]:
        (survey,) = (one for one in self.plan(name, machine=machine) if one.experiment == name)
        return {step.stage: step for step in survey.steps}

    def states(self) -> dict[str, str]:
        return {name: step.state for name, step in self.steps().items()}

    def why(self, stage: str) -> list[str]:
        return [reason.text for reason in self.steps()[stage].why]

    def slices(self, name: str = "tiny") -> dict[str, Slice]:
        workspace = self.open()
        self.scan(workspace, name)
        return workspace.slices(name)

    def run(self, name: str = "tiny", until: str = "report", record: dict[str, Any] | None = None) -> dict[str, Slice]:
        """Finish every stage up to ``until``; with "report", publish."""
        parts = self.slices(name)
        for stage in (one for one in list(STAGES)[1 : list(STAGES).index(until) + 1] if one in parts):
            part = parts[stage]
            if stage == "report":
                keys = {one: part.key for one, part in parts.items()}
                write_json(self.results / name / "run.json", {"keys": keys})
                for marker in (self.results / name).glob(".published-*"):
                    marker.unlink()
                (self.results / name / f".published-{part.key}").touch()
            else:
                self._finish(part, record or {})
        return parts

    def folder(self, part: Slice) -> Path:
        """A stage's folder in the store."""
        return self.store / part.stage / (part.items_key if STAGES[part.stage].items else part.key)

    def rows(self, part: Slice, names: Sequence[str]) -> None:
        """Rows without content in a stage's folder."""
        folder = self.folder(part)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{name}/x": np.zeros(1, np.float32) for name in names}
        meta = {"format": FORMAT, "meta": json.dumps({name: {} for name in names})}
        save_file(tensors, folder / f"{len(list(folder.iterdir())):032d}.safetensors", meta)

    def ids(self, part: Slice) -> list[str]:
        """Every row that a stage makes."""
        rows = [self._row(path, split) for split in ("train", "valid") for path in self._videos(split)]
        if part.stage == "sample":
            return [f"{row.clip[:16]}.{i}" for row in rows if row.split == "train" for i in range(5)]
        return sorted({row.caption_id if part.stage == "text" else row.clip for row in rows})

    def _finish(self, part: Slice, record: dict[str, Any]) -> None:
        made = 1
        if part.stage in ("preprocess", "latents", "text", "sample", "evaluate"):
            self.rows(part, self.ids(part))
            made = len(self.ids(part))
        receipt = {"stage": part.stage, "key": part.key, "made": made, "reused": 0}
        if part.stage == "train":
            folder = self.store / "train" / part.key / "final"
            summary = TrainSummary(
                run=part.key, steps=6, base="random weights", ranks=2, threads_per_rank=1, start={}, loss_first=1.0,
                loss_last=0.5, steps_per_second=2.0, data_wait_fraction=0.001, parameters_trained=1, parameters_total=2,
                peak_memory=PeakMemory(700.0),
            )  # fmt: skip
            summary.write(folder)
            receipt["steps"] = 6
        if part.stage == "export":
            write_json(self.store / "export" / part.items_key / "index.json", {"formats": {}})
        write_json(self.results / ".receipts" / f"{part.stage}-{part.key}.json", receipt)
        told = {
            "stage": part.stage,
            "key": part.key,
            "runs": 1,
            "seconds": 60.0,
            "peak_memory_mib": 700.0,
            "made": made,
            "run": part.volatile.recorded(),
        }
        write_json(
            self.store / "records" / f"{part.stage}-{part.key}.json", told | {"device": "CPU", "devices": 1} | record
        )

    def _videos(self, split: str) -> list[Path]:
        return sorted((self.root / f"data/{split}/videos").iterdir())

    def _row(self, path: Path, split: str) -> ClipRow:
        caption = (path.parents[1] / "labels" / f"{path.stem}.txt").read_text()
        clip, caption_id = (hashlib.sha256(text.encode()).hexdigest() for text in (path.read_text(), caption))
        return ClipRow(clip, str(path), f"videos/{path.name}", split, caption, caption_id, 12, 8.0, 48, 32)
