"""`cogtune sample EXPERIMENT|WEIGHTS`: videos of given prompts, in a page of their own. With `--base` it is the stage."""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogtune.commands.plan_table import duration, size
from cogtune.config.errors import ConfigError
from cogtune.config.key_types import nearest
from cogtune.config.schema.common import GUIDANCE, SAMPLING_STEPS, SEED, STRENGTH, Range, number
from cogtune.config.values import Values
from cogtune.data.prompt_file import Line
from cogtune.errors import UserError
from cogtune.plan.counts import Work
from cogtune.plan.estimate import Estimator
from cogtune.plan.history import History
from cogtune.runtime.digest import digest
from cogtune.runtime.machines import here
from cogtune.runtime.paths import check_name, named_folder
from cogtune.runtime.slugs import slug
from cogtune.runtime.slurm import MAX_RESTARTS
from cogtune.runtime.typed_json import is_mapping
from cogtune.work.experiment import BY_HAND
from cogtune.work.prompt_rows import Asked, asked_prompts, caption_id, file_names, rows_of, too_long
from cogtune.work.prompted import Options, Prompted, check_overrides, of_experiment, of_weights
from cogtune.work.volatile import PromptRow, PromptsRun
from cogtune.work.workspace import Workspace

FOLDER = "prompts"
"""Folder of the pages in results/<experiment>/."""
_MOST_VIDEOS = 10_000
EPILOG = """examples:
  cogtune sample mine --prompt "a rabbit waves" --prompt "a rabbit sleeps"
  cogtune sample mine --prompts prompts.txt --strength 0 0.5 1 --seed 1 2
  cogtune sample mine --prompt "a rabbit waves" --image rabbit.png            # an image-to-video model
  cogtune sample lora.safetensors --base config/cogvideox_2b.yaml --prompt "a rabbit waves"
  cogtune sample --base config/tiny/demo.yaml -- args.seed=7                  # the stage sample of a config
The first four show videos in results/EXPERIMENT/prompts/NAME/index.html. What exists is not made again. The last one runs
one stage of the workflow, as Snakemake does: the captions of its data set, in the store."""
_OF_STAGE = ("part", "slice", "run", "receipt")
_OWN = ("prompt", "prompts", "strength", "seed", "negative", "steps", "guidance", "frames", "image", "dry_run")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what `cogtune sample EXPERIMENT|WEIGHTS` takes to the subcommand of the stage."""
    command.add_argument(
        "model",
        nargs="?",
        metavar="EXPERIMENT|WEIGHTS",
        help="sample the result of this experiment, or these weights (file or folder, with --base), with own prompts",
    )
    own = command.add_argument_group("own prompts, with EXPERIMENT|WEIGHTS")
    own.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; may be repeated")
    own.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="UTF-8 file with one prompt per line, image to video: prompt@@image",
    )
    own.add_argument(
        "--strength",
        nargs="+",
        type=float,
        metavar="S",
        help="factors of the LoRA: 1 (default) as trained, 0 without it; after full training only 0 and 1",
    )
    own.add_argument("--seed", nargs="+", type=int, metavar="N", help="seeds of the noise (default: args.seed)")
    own.add_argument("--negative", metavar="TEXT", help="prompt to lead away from, in place of none; needs guidance")
    own.add_argument("--steps", type=int, metavar="N", help="sampling steps (default: as configured)")
    own.add_argument(
        "--guidance", type=float, metavar="G", help="scale of the guider, and use it (default: as configured)"
    )
    own.add_argument("--frames", type=int, metavar="N", help="frames of a video, 4k + 1 (default: as configured)")
    own.add_argument("--image", type=Path, metavar="FILE", help="image to video: the first frame, for all prompts")
    own.add_argument("-n", "--dry-run", action="store_true", help="only say what would be made, and how long it takes")


def is_wanted(arguments: argparse.Namespace) -> bool:
    """Whether own prompts are asked for, and not the stage. Raises UserError for options that do not go together."""
    own = [name for name in _OWN if getattr(arguments, name) not in (None, False)]
    if arguments.model is None:
        if own:
            option = f"--{own[0].replace('_', '-')}"
            raise ConfigError(f"{option}: give the model too: cogtune sample EXPERIMENT|WEIGHTS {option} …")
        if not (arguments.base or arguments.slice):
            raise ConfigError("expected EXPERIMENT|WEIGHTS, or --base FILE for the stage; see cogtune sample --help")
        return False
    stage = [name for name in _OF_STAGE if getattr(arguments, name) is not None]
    stage += ["max-restarts"] if arguments.max_restarts != MAX_RESTARTS else []
    if stage:
        raise ConfigError(
            f"--{stage[0]}: belongs to the stage (cogtune sample --base FILE), not to own prompts; remove it"
        )
    if not (arguments.prompt or arguments.prompts):
        raise ConfigError(f'expected --prompt TEXT or --prompts FILE: cogtune sample {arguments.model} --prompt "…"')
    return True


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Make the videos and their page; returns the exit code. Raises UserError."""
    for option, values, valid in (
        ("--seed", arguments.seed, SEED),
        ("--strength", arguments.strength, STRENGTH),
        ("--steps", arguments.steps, SAMPLING_STEPS),
        ("--guidance", arguments.guidance, GUIDANCE),
    ):
        _check_range(option, values, valid)
    if any("\ud800" <= letter <= "\udfff" for letter in arguments.negative or ""):
        raise ConfigError("--negative: is not valid UTF-8 text")
    if arguments.name is not None and (problem := check_name(arguments.name)):
        raise ConfigError(f"--name {arguments.name!r}: {problem}")
    workspace = Workspace.by_hand(arguments.workflow)
    workspace.writes.held = True
    label, model = _model(arguments, workspace, overrides)
    reading = asked_prompts(
        arguments.prompt or [],
        arguments.prompts,
        arguments.image,
        bool(model.config.values["model"]["noised_image_input"]),
    )
    _check_options(arguments, model)
    request = _Request(workspace, label, model, reading.prompts, arguments)
    reading.refuse(request.too_long())
    print(request.told(), file=sys.stderr)
    if not arguments.dry_run:
        request.make()
        print(request.publish())
    return 0


def _model(arguments: argparse.Namespace, workspace: Workspace, overrides: Sequence[str]) -> tuple[str, Prompted]:
    """(name of the folder of results, model) of EXPERIMENT|WEIGHTS. Raises UserError."""
    options = Options(arguments.steps, arguments.guidance, arguments.frames)
    name, path = arguments.model, Path(arguments.model)
    if name in workspace.experiments:
        if arguments.base or overrides:
            extra = "--base" if arguments.base else f"`-- {overrides[0]}`"
            raise UserError(
                f"{extra}: the config of {name} is in {arguments.workflow}; use --steps, --guidance, --frames …"
            )
        if arguments.ranks:
            experiment = workspace.experiments[name]
            workspace.experiments[name] = replace(experiment, ranks=arguments.ranks)
        from cogtune.commands.stage import scan_first

        scan_first(workspace, name, arguments.plain)
        return name, of_experiment(workspace, name, options)
    if not path.exists():
        near = nearest(name, workspace.experiments)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(workspace.experiments) or "none"
        raise UserError(f"{name}: no such experiment ({known}), and no such file or folder{hint}")
    check_overrides(overrides)
    ranks = arguments.ranks or workspace.ranks
    return BY_HAND, of_weights(workspace, path, arguments.base or (), overrides, options, ranks)


def _check_range(option: str, values: Any, valid: Range) -> None:
    for value in values if isinstance(values, list) else [] if values is None else [values]:
        if value not in valid:
            raise ConfigError(
                f"{option} {number(value) if math.isfinite(value) else value}: expected a number from {valid}"
            )


def _check_options(arguments: argparse.Namespace, model: Prompted) -> None:
    """Raise UserError for an option that cannot apply to the model."""
    takes_image = model.config.values["model"]["noised_image_input"]
    if arguments.image is not None and not takes_image:
        raise ConfigError("--image: this is a text-to-video model, which takes no image")
    if arguments.negative is not None and not model.guided:
        raise ConfigError(
            "--negative: guidance leads away from it, but these videos are made without guidance "
            "(args.sampling_guided or sampler_config.guider_config); add --guidance G"
        )
    possible = (0, 1) if model.has_base else (1,)
    wrong = [one for one in arguments.strength or [] if not model.has_lora and one not in possible]
    if wrong:
        why = (
            "full training changed all weights, so there is no LoRA to multiply; expected 0 (before training) or 1 (after)"
            if model.has_base
            else "the weights have no LoRA to multiply, and no model before training is known; expected 1"
        )
        raise ConfigError(f"--strength {number(wrong[0])}: {why}")


class _Request:
    """The videos of one command: their rows, their job, and their page."""

    def __init__(
        self, workspace: Workspace, label: str, model: Prompted, prompts: Sequence[Asked], arguments: argparse.Namespace
    ) -> None:
        self.workspace, self.model, self.prompts, self.plain = workspace, model, prompts, arguments.plain
        self.experiment, self.log, self.source = label, arguments.log, arguments.model
        args = model.config.values["args"]
        resolver = workspace.prompting(f"{label}.prompts", model.config, model.ranks)
        strengths, seeds = arguments.strength or [1.0], arguments.seed or [args["seed"]]
        self.rows = rows_of(
            prompts, strengths, seeds, arguments.negative, lambda path: resolver.hashes.of(path, "--image")
        )
        if len(self.rows) > _MOST_VIDEOS:
            raise UserError(f"{len(self.rows)} videos; at most {_MOST_VIDEOS} fit a page; give fewer prompts or seeds")
        resolver.prompts = PromptsRun(self.rows, None if model.lora is None else str(model.lora.resolve()))
        resolver.loaded = model.train
        self.parts = resolver.all()
        self.weights = str(Path(self.source).resolve()) if label == BY_HAND else None
        self.page = named_folder(self._pages(), arguments.name or self._name(arguments), "--name")

    def _pages(self) -> Path:
        return named_folder(self.workspace.results, self.experiment, "experiment") / FOLDER

    def _name(self, arguments: argparse.Namespace) -> str:
        """The name of the page: of the prompt file, or the first prompt's words; for weights with their name before it, and
        with a digest of their path if other weights of that name have this page."""
        words = arguments.prompts.stem if arguments.prompts else arguments.prompt[0]
        if self.weights is None:
            return _valid(slug(words, "prompts"))
        stem = slug(Path(self.source).stem)
        name = _valid(f"{stem}-{slug(words)}")
        if weights_of_page(self._pages() / name) in (None, self.weights):
            return name
        return _valid(f"{stem}-{digest(self.weights)[:6]}-{slug(words)}")

    def too_long(self) -> dict[str, str]:
        """Place -> message, of prompts with more tokens than the text encoder takes. Captions in the cache are known."""
        from cogtune.data.rows import TextRow
        from cogtune.data.store import ShardReader

        reader = ShardReader(self.workspace.store / "text" / self.parts["text"].items_key)
        known = reader.ids()
        cached = dict(TextRow.read_all(reader, {caption_id(one.line.caption) for one in self.prompts} & known))
        new = [one for one in self.prompts if caption_id(one.line.caption) not in cached]
        new += [one for one in self.prompts if (row := cached.get(caption_id(one.line.caption))) and row.truncated]
        negative = [Asked("--negative", Line(row.negative)) for row in self.rows[:1] if row.negative]
        if not [*new, *negative]:
            return {}
        from cogtune.model.text import token_counter

        conditioner = self.parts["text"].config()["model"]["conditioner_config"]
        counter = token_counter(conditioner)
        return too_long([*new, *negative], *counter) if counter else {}

    def missing(self) -> list[PromptRow]:
        """The rows that the store lacks."""
        from cogtune.data.store import ShardReader

        present = ShardReader(self.workspace.store / "sample" / self.parts["sample"].key).ids()
        return [row for row in self.rows if row.id not in present]

    def told(self) -> str:
        """What is made, and how long it takes."""
        todo = len(self.missing())
        lines = [self.model.note] if self.model.note else []
        lines.append(f"{self.counts()}, {len(self.rows) - todo} of them in the store; {self.settings()}")
        if todo:
            work = Work(todo, len(self.rows), "videos")
            estimator = Estimator(
                self.model.config.values, self.model.config.files, self.model.ranks, here(), self._history()
            )
            estimate = estimator.of(self.parts["sample"], work)
            took = (
                "time unknown" if estimate.seconds is None else f"about {duration(estimate.seconds)} ({estimate.basis})"
            )
            lines.append(
                f"{_many(todo, 'video')} to make: {took} on {estimator.device.name}, {size(estimate.disk)} on disk"
            )
            lines += estimator.warnings("sample", estimate)
        return "\n".join(f"[sample] {line}" for line in lines)

    def _history(self) -> History:
        return History(self.workspace.store, self.workspace.results)

    def counts(self) -> str:
        """How many videos, in words."""
        strengths, seeds = len({row.strength for row in self.rows}), len({row.seed for row in self.rows})
        of = f"{_many(len(self.prompts), 'prompt')} x {_many(strengths, 'strength')} x {_many(seeds, 'seed')}"
        return f"{_many(len(self.rows), 'video')} ({of})"

    def settings(self) -> str:
        """How the videos are made, in words."""
        values = Values(self.model.config.values)
        height, width = values["data.params.video_size"]
        steps = values["args.sampling_steps"] or values["model.sampler_config.params.num_steps"]
        scale = values.get("model.sampler_config.params.guider_config.params.scale")
        guidance = f"guidance {number(scale)}" if self.model.guided and scale is not None else "no guidance"
        guidance = "guided" if self.model.guided and scale is None else guidance
        precision = "bf16" if values["args.bf16"] else "fp16" if values["args.fp16"] else "fp32"
        frames = values["data.params.max_num_frames"]
        return f"{_many(frames, 'frame')} of {height}x{width}, {steps} steps, {guidance}, {precision}"

    def make(self) -> None:
        """Run the job. What an interrupted one has made is kept."""
        from cogtune.runtime.stopping import stop_on_sigterm
        from cogtune.stages.execute import execute_logged
        from cogtune.stages.job import Job

        workspace, part = self.workspace, self.parts["sample"]
        workspace.open_store()
        train = set[Path]() if self.model.train is None else workspace.files_of(self.model.train)
        own = {one.path(workspace.store) for one in self.parts.values()} | {
            one.run for one in self.parts.values() if one.run
        }
        workspace.writes.release_only(train | own)
        workspace.save_hashes()
        command = shlex.join(["cogtune", "sample", "--slice", str(part.path(workspace.store)), "--run", str(part.run)])
        with stop_on_sigterm():
            execute_logged(Job(part, workspace.store, self.log, self.plain), None, command)

    def publish(self) -> Path:
        """Write the page; returns its path."""
        from cogtune.evaluation.report.prompts_page import PromptsPage, publish_prompts

        samples = self.workspace.store / "sample" / self.parts["sample"].key
        images = {row.id: samples / "images" / f"{row.id}.png" for row in self.rows if row.image is not None}
        page = PromptsPage(
            self.source, self.weights, self.counts(), self.settings(), self.rows, file_names(self.rows), images
        )
        return publish_prompts(self.page, page, samples)


def weights_of_page(folder: Path) -> str | None:
    """The absolute path of the weights that made the page in ``folder``; None if there is no such page."""
    from cogtune.evaluation.report.prompts_page import LIST

    try:
        page: Any = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not is_mapping(page) or not isinstance(page.get("model"), str):
        return None
    return str(page.get("weights") or Path(page["model"]).resolve())  # earlier versions wrote only the path as typed


def _valid(name: str) -> str:
    return name if check_name(name) is None else "prompts"


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
