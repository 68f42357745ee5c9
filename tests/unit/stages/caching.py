"""A project whose caches are made by the stages themselves: real clips, real VAE and T5 of random weights, real slices."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cogtune.stages import images, latents, preprocess, scan, text
from cogtune.stages.job import Job
from cogtune.stages.run_counts import RunCounts
from cogtune.work.content_hashes import ContentHashes
from cogtune.work.load import load_config
from cogtune.work.resolve import Resolver, RunPaths
from tests.unit.data.footage import write_video
from tests.workflow.weights import make_t5, make_vae

TINY = Path(__file__).parents[2] / "workflow" / "tiny.yaml"
STAGES = {"scan": scan.run, "preprocess": preprocess.run, "latents": latents.run, "text": text.run}
IMAGES = {"images": images.run}


class Caching:
    """Clips below ``root/data``; jobs are cut anew for each run, as the main process would."""

    def __init__(self, root: Path, yaml: Path = TINY) -> None:
        self.yaml = yaml
        self.root, self.store, self.overrides = root, root / "store", list[str]()
        self.counts: dict[str, dict[str, Any]] = {}
        (root / "assets").mkdir(parents=True)
        make_vae(root / "assets/3d-vae.pt", seed=1)
        make_t5(root / "assets/t5", seed=2)
        self.hashes = ContentHashes(self.store / "hashes.json")

    def add(self, name: str, caption: str | None, seed: int, split: str = "train", **video: Any) -> Path:
        """A clip; without ``caption`` it has none."""
        if caption is not None:
            label = self.root / "data" / split / "labels" / f"{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(caption)
        return write_video(self.root / "data" / split / "videos" / f"{name}.mp4", seed=seed, **{"frames": 12, **video})

    def resolver(self) -> Resolver:
        here = [
            f"args.train_data=[{self.root}/data/train]",
            "args.valid_data=null",
            f"model.first_stage_config.params.ckpt_path={self.root}/assets/3d-vae.pt",
            f"model.conditioner_config.params.emb_models.0.params.model_dir={self.root}/assets/t5",
        ]
        if (self.root / "data/valid").exists():
            here[1] = f"args.valid_data=[{self.root}/data/valid]"
        config = load_config([self.yaml], [*here, *self.overrides], check_files=False)
        return Resolver(config, RunPaths(self.store, self.root / "results", experiment="tiny"), self.hashes)

    def with_store(self, store: Path) -> "Caching":
        """The same data and assets with a copy of the store."""
        other = copy.copy(self)
        shutil.copytree(self.store, store)
        other.store, other.overrides, other.hashes = store, [], ContentHashes(store / "hashes.json")
        return other

    def job(self, stage: str) -> Job[Any]:
        resolver = self.resolver()
        if stage == "scan":
            return Job(resolver.scan(), self.store)
        return Job(resolver.all()[stage], self.store)

    def run(self, stage: str) -> dict[str, Any]:
        """Run the stage; returns its counts as a receipt holds them."""
        return self.run_job(self.job(stage))

    def run_job(self, job: Job[Any]) -> dict[str, Any]:
        run: Callable[[Job[Any]], RunCounts] = (STAGES | IMAGES)[job.slice.stage]
        return run(job).to_json()

    def run_all(self) -> dict[str, dict[str, Any]]:
        return {stage: self.run(stage) for stage in STAGES}
