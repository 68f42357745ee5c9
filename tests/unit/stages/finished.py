"""A store in which everything up to `train` is done: real clips, VAE and slices, made-up captions, weights and log."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cogtune.config.build import build
from cogtune.data.clips import describe_clip
from cogtune.data.dataset import settings_of
from cogtune.data.decoder import Decoder
from cogtune.data.listing import ClipRow, Reject, write_manifest
from cogtune.data.rows import LatentRow, TextRow
from cogtune.data.store import ShardWriter
from cogtune.evaluation.report.publish import publish
from cogtune.model.start import initial_model
from cogtune.runtime.digest import data_digests
from cogtune.stages import export, images, sample
from cogtune.stages.job import Job
from cogtune.stages.train import start_of
from cogtune.work.content_hashes import ContentHashes
from cogtune.work.load import load_config
from cogtune.work.resolve import Resolver, RunPaths
from cogtune.work.results import PeakMemory, TrainSummary
from cogtune.work.slices import Slice
from tests.workflow.project import make_clip
from tests.workflow.weights import make_t5, make_vae

TINY = Path(__file__).parents[2] / "workflow" / "tiny.yaml"


def summary_of_training(run: str, **figures: Any) -> TrainSummary:
    """A summary with made-up figures."""
    values: dict[str, Any] = {
        "steps": 6, "base": "random weights", "ranks": 2, "threads_per_rank": 1, "start": {}, "loss_first": 1.0,
        "loss_last": 0.5, "steps_per_second": 2.0, "data_wait_fraction": 0.001, "parameters_trained": 1,
        "parameters_total": 2, "peak_memory": PeakMemory(700.0),
    }  # fmt: skip
    return TrainSummary(run=run, **values | figures)


class Finished:
    """``job(stage)`` gives the job of any stage; ``slices`` are those of one merged config."""

    def __init__(self, root: Path, *overrides: str, clips: int = 3, yaml: Path = TINY) -> None:
        self.root, self.store, self.yaml = root, root / "store", yaml
        (root / "assets" / "t5").mkdir(parents=True, exist_ok=True)
        (root / "assets" / "t5" / "config.json").write_text("{}")
        if not (root / "assets" / "3d-vae.pt").exists():
            make_vae(root / "assets" / "3d-vae.pt", seed=1)
            for i in range(clips):
                make_clip(root / "data" / "train" / "videos" / f"clip{i}.mp4", seed=i + 1)
            make_clip(root / "data" / "valid" / "videos" / "held.mp4", seed=9)
        self.rows = [self._row("train", f"clip{i}", f"caption {i}") for i in range(clips)]
        self.rows.append(self._row("valid", "held", "held out"))
        self.slices = self._cut(overrides)

    def job(self, stage: str) -> Job[Any]:
        return Job(self.slices[stage], self.store)

    def fill(self) -> "Finished":
        """Make what the stages before `export` would have made."""
        self._fill_clips()
        with ShardWriter(self.job("text").items_dir()) as writer:
            for i, row in enumerate(self.rows):
                draw = torch.Generator().manual_seed(i)
                context = torch.randn(8, 32, generator=draw)
                TextRow(tokens=3, truncated=i == 1).add(writer, row.caption_id, context)
        train = self.job("train")
        final = train.job_dir() / "final"
        final.mkdir(parents=True, exist_ok=True)
        network = initial_model(start_of(train))
        torch.manual_seed(0)
        trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        state = {name: p.detach() + 0.05 * torch.randn_like(p) for name, p in trained}
        save_file(state, final / "model.safetensors", {"cogtune": json.dumps({"steps": 6})})
        summary_of_training(train.key, loss_first=1.25, loss_last=0.5, steps_per_second=4.0).write(final)
        log = [{"step": i, "loss": 1.25 / i, "lr": 1e-3} for i in range(1, 7)] + [{"step": 6, "validation_loss": 0.7}]
        (train.job_dir() / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
        return self

    def _row(self, split: str, name: str, caption: str) -> ClipRow:
        path = self.root / "data" / split / "videos" / f"{name}.mp4"
        clip = hashlib.sha256(path.read_bytes()).hexdigest()
        caption_id = hashlib.sha256(caption.encode()).hexdigest()
        return ClipRow(clip, str(path), f"videos/{name}.mp4", split, caption, caption_id, 12, 8.0, 48, 32)

    def _cut(self, overrides: tuple[str, ...]) -> dict[str, Slice]:
        here = [
            f"args.train_data=[{self.root}/data/train]",
            f"args.valid_data=[{self.root}/data/valid]",
            f"model.first_stage_config.params.ckpt_path={self.root}/assets/3d-vae.pt",
            f"model.conditioner_config.params.emb_models.0.params.model_dir={self.root}/assets/t5",
        ]
        config = load_config([self.yaml], [*here, *overrides], check_files=False)
        place = RunPaths(self.store, self.root / "results", experiment="tiny")
        resolver = Resolver(config, place, ContentHashes(self.store / "hashes.json"))
        scan = self.store / "scan" / resolver.scan().key
        scan.mkdir(parents=True, exist_ok=True)
        write_manifest(scan / "manifest.jsonl", self.rows)
        digests = data_digests((row.clip, row.caption, row.split) for row in self.rows)
        (scan / "digests.json").write_text(json.dumps(digests))
        (scan / "rejects.jsonl").write_text(
            json.dumps(vars(Reject("videos/bad.mp4", "/videos/bad.mp4", "train", "empty file"))) + "\n"
        )
        return resolver.all()

    def _fill_clips(self) -> None:
        preprocess, latents = self.job("preprocess"), self.job("latents")
        settings = settings_of(preprocess.input)
        vae = build(latents.input.vae)
        with (
            ShardWriter(preprocess.items_dir()) as prepared,
            ShardWriter(latents.items_dir()) as encoded,
            Decoder() as decoder,
        ):
            for row in self.rows:
                plan, pixels_FCHW = describe_clip(Path(row.path), settings, decoder)
                plan.add(prepared, row.clip, pixels_FCHW[0])
                video_BCTHW = pixels_FCHW.transpose(0, 1)[None] / 127.5 - 1
                LatentRow(vae.encode(video_BCTHW)[0]).add(encoded, row.clip)
        if "images" in self.slices:
            images.run(self.job("images"))


def published(root: Path, experiment: str) -> Finished:
    """Sampled from a prompt file with one line, and published in root/results/<experiment>."""
    make_t5(root / "t5", seed=0)
    (root / "prompts.txt").write_text("a wave rolls\n")
    finished = Finished(
        root,
        "args.input_type=txt",
        f"args.input_file={root}/prompts.txt",
        "args.sampling_guided=true",
        "args.sampling_controls=[base]",
        f"model.conditioner_config.params.emb_models.0.params.model_dir={root}/t5",
    ).fill()
    for part in finished.slices.values():
        part.write(finished.store)
    export.run(finished.job("export"))
    sample.run(finished.job("sample"))
    views = finished.job("sample").job_dir() / "videos"
    files = {f"01-{path.name}": path for path in views.iterdir()}
    publish(
        root / "results" / experiment, finished.job("report").key, {"report.html": ""}, {}, files={"samples": files}
    )
    return finished
