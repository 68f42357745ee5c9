"""`cogtune new NAME`: look at a folder of clips, choose settings, and write an experiment into config/config.yaml."""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cogtune.commands.new_questions import Answers, ask, confirm
from cogtune.commands.options import Subcommands, add_ranks, add_workflow
from cogtune.errors import UserError
from cogtune.runtime.machines import Device, gpu_count, machine_of
from cogtune.runtime.progress import Progress, progress
from cogtune.setup.clips import Data, look_at, reasons
from cogtune.setup.config_lines import check_new_name, indent_of, lines_of, with_experiment, write
from cogtune.setup.models import START_MODELS, StartModel, start_model
from cogtune.setup.settings import NewExperiment, Wish, choose
from cogtune.work.workspace import Workspace

_log = logging.getLogger(__name__)
_LONGEST_NUMBER = 8


def add_to(commands: Subcommands) -> None:
    """The subcommand."""
    summary = "look at your clips, choose settings, and add an experiment to config/config.yaml"
    command = commands.add_parser(
        "new",
        help=summary,
        description=f"{summary}. Asks for what is not given; --yes takes the defaults.",
        epilog="example: cogtune new mine --data 'my clips' --model cogvideox-5b --lora --device 4090 --yes",
    )
    command.add_argument("name", metavar="NAME", help="name of the experiment: letters, digits, '_', '-', '.'")
    command.add_argument(
        "--data", metavar="FOLDER", help="folder of clips and captions, or its metadata.csv (docs/data.md)"
    )
    command.add_argument(
        "--valid", metavar="FOLDER", help="folder of clips that are not trained on (default: FOLDER/valid)"
    )
    command.add_argument("--model", metavar="MODEL", help=f"what to start from: {', '.join(START_MODELS)}")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--lora", action="store_true", help="train a LoRA (default, except for the toy)")
    kind.add_argument("--full", action="store_true", help="train all weights")
    command.add_argument(
        "--device", metavar="NAME", help="the GPU to train on: H100, 4090, 24GB, CPU (default: the GPU found)"
    )
    add_ranks(command)
    command.add_argument(
        "--frames", type=_number, metavar="N", help="frames of a clip, 4k + 1 (default: what the clips allow)"
    )
    command.add_argument(
        "--steps", type=_number, metavar="N", help="training steps (default: 1000 for a LoRA, 500 for full)"
    )
    command.add_argument(
        "--weights", metavar="PATH", help="the model's weights (default: where `cogtune weights get` puts them)"
    )
    command.add_argument("--yes", action="store_true", help="ask nothing")
    command.add_argument("--dry-run", action="store_true", help="show the lines, write nothing")
    add_workflow(command, "it gets the new lines")
    command.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Write the experiment; returns the exit code. Raises UserError."""
    if overrides:
        raise UserError(
            f"new takes no config values; found {shlex.join(overrides)} after `--`. Add them to the lines in {arguments.workflow}"
        )
    path: Path = arguments.workflow
    if not path.is_file():
        raise UserError(f"{path}: no such file; run this command in your clone of cogtune, or give --workflow FILE")
    workspace = Workspace.load(path)
    check_new_name(workspace, arguments.name, path)
    may_ask = sys.stdin.isatty() and sys.stderr.isatty() and not arguments.yes
    answers = _answers(arguments, may_ask)
    model, device = start_model(answers.model), _device(answers.device)
    lora = arguments.lora or not (arguments.full or model.is_toy)
    if model.is_toy and lora and "demo" not in workspace.experiments:
        raise UserError(f"--lora of the toy starts from the experiment demo, which {path} does not have; use --full")
    data = _look(answers.data, arguments.valid, workspace)
    wish = Wish(
        arguments.name, data, model, lora, device, _ranks(arguments, workspace), arguments.frames, arguments.steps,
        arguments.weights,
    )  # fmt: skip
    experiment = choose(wish)
    text = path.read_bytes().decode("utf-8")
    lines = lines_of(experiment, _command(arguments, answers, lora), indent_of(text))
    _show(experiment, data, lines, path)
    if arguments.dry_run:
        _log.info("dry run: nothing was written")
        return 0
    changed = with_experiment(text, experiment.name, lines, path)
    if may_ask and not confirm(f"Add these lines to {path}?"):
        _log.info("nothing was written")
        return 0
    write(path, text, changed, experiment)
    _next_steps(experiment, model, answers.device, path)
    return 0


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > _LONGEST_NUMBER or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number from 1; found {text!r}")
    return int(text)


def _answers(arguments: argparse.Namespace, may_ask: bool) -> Answers:
    """Data, model and device, from options or questions. Raises UserError for what is needed and cannot be asked."""
    known = Answers(arguments.data or "", arguments.model or "", arguments.device or "")
    toy = known.model and start_model(known.model).is_toy
    needs_device = not known.device and not toy and not gpu_count()
    if may_ask:
        return ask(known, needs_device)
    if not (arguments.yes or arguments.dry_run):
        raise UserError(
            "there is no terminal to ask questions on; add --yes to take the defaults, or --dry-run to see them"
        )
    missing = [
        option
        for option, needed in (
            ("--data FOLDER", not known.data),
            (f"--model {'|'.join(START_MODELS)}", not known.model),
            ("--device NAME, because no GPU was found here (4090, H100, 24GB, …, or CPU)", needs_device),
        )
        if needed
    ]
    if missing:
        raise UserError(f"new: needed, and not given: {'; '.join(missing)}")
    return known


def _device(name: str) -> Device:
    return machine_of(name or None, 1).device


def _ranks(arguments: argparse.Namespace, workspace: Workspace) -> int:
    if arguments.ranks is not None:
        return arguments.ranks
    return 1 if arguments.device else workspace.ranks


def _look(folder: str, valid: str | None, workspace: Workspace) -> Data:
    bars = list[Progress]()
    with ExitStack() as stack:
        return look_at(
            folder,
            valid,
            workspace.store / "scan" / "memo.jsonl",
            on_start=lambda total: bars.append(stack.enter_context(progress(total, "new", "files"))),
            on_file=lambda: bars[0].advance(),
        )


def _command(arguments: argparse.Namespace, answers: Answers, lora: bool) -> list[str]:
    """The command that gives these lines again, without questions."""
    options = [("--data", answers.data), ("--valid", arguments.valid), ("--model", answers.model)]
    options += [("--device", answers.device), ("--ranks", arguments.ranks), ("--frames", arguments.frames)]
    options += [("--steps", arguments.steps), ("--weights", arguments.weights)]
    given = [word for option, value in options if value for word in (option, str(value))]
    return ["cogtune", "new", arguments.name, *given, "--lora" if lora else "--full"]


def _show(experiment: NewExperiment, data: Data, lines: Sequence[str], path: Path) -> None:
    """What was found to stderr; the lines, which may be wanted in a file, to stdout."""
    least, most = data.seconds
    _log.info(
        "%s: %s clips of %.1f to %.1f s, captions: %s", data.folder, f"{len(data.rows):,}", least, most, data.captions
    )
    for reason in reasons(data.rejects):
        _log.info("  not used: %s", reason)
    for remark in experiment.remarks:
        _log.info("note: %s", remark)
    _log.info("lines for %s:", path)
    print("\n".join(lines))


def _next_steps(experiment: NewExperiment, model: StartModel, device: str | None, path: Path) -> None:
    _log.info("added %s to %s", experiment.name, path)
    if experiment.config.missing and not model.is_toy:
        _log.info("weights are missing: `cogtune weights get %s` downloads them", model.name)
    load = experiment.config.values["args"]["load"]
    if isinstance(load, dict):
        _log.info("note: it starts from the result of experiment %s, which is trained first", load["experiment"])
    plan = shlex.join(["cogtune", "plan", experiment.name, *(["--device", device] if device else [])])
    _log.info("next: `%s` shows time and memory, `cogtune run %s` runs it", plan, experiment.name)
