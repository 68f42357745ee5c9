"""`cogtune config show|check|diff|explain`."""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace

from cogtune.commands import config_show
from cogtune.commands.options import Subcommands, add_workflow
from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.merge import Config
from cogtune.data.prompt_file import read_prompts
from cogtune.errors import UserError
from cogtune.work.experiment import Experiment
from cogtune.work.machine_limits import has_gpu, needs_gpu
from cogtune.work.stages import STAGES
from cogtune.work.workspace import Workspace

_log = logging.getLogger(__name__)


def add_to(commands: Subcommands) -> None:
    """The subcommand and its actions."""
    text = "show, check, compare and explain configs"
    command = commands.add_parser("config", help=text, description=text)
    command.set_defaults(run_command=run)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="the merged config with the source of each value")
    show.add_argument("--format", choices=["yaml", "json"], default="yaml")
    show.add_argument("--stage", choices=list(STAGES), help="only the keys that this stage reads")
    check = actions.add_parser(
        "check", help="check a config, or without --base all experiments of the workflow config; exit code 0 or 2"
    )
    check.add_argument("--no-files", action="store_true", help="do not check that files exist")
    for action in (show, check):
        action.add_argument(
            "--base",
            nargs="+",
            metavar="FILE",
            required=action is show,
            help="SAT-style YAML files, later ones override earlier ones; overrides follow `--`",
        )
    diff = actions.add_parser("diff", help="the keys that differ between two configs")
    diff.add_argument("files", nargs=2, metavar="FILE", help="overrides after `--` apply to both")
    for action in (show, check, diff):
        add_workflow(action, "experiments, plugins")
    explain = actions.add_parser("explain", help="meaning, type and default of a key, and the stages that read it")
    explain.add_argument("key", help="a key path or its last part: args.lr, lr")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the action; return the exit code. Raises ConfigErrors for an invalid config, UserError for wrong usage."""
    if arguments.action == "explain":
        if overrides:
            raise UserError(f"config explain takes no overrides; found {' '.join(overrides)} after `--`")
        print(config_show.explain(arguments.key))
    elif arguments.action == "diff":
        before, after = (_partial(arguments, [file], overrides) for file in arguments.files)
        print("\n".join(config_show.diff(before, after)) or "no differences")
    elif arguments.action == "show":
        config = _partial(arguments, arguments.base, overrides)
        _tell(config.notices)
        render = config_show.as_json if arguments.format == "json" else config_show.as_yaml
        sys.stdout.write(render(config, arguments.stage))
    else:
        _check(arguments, overrides)
    return 0


def _partial(arguments: argparse.Namespace, files: Sequence[str], overrides: Sequence[str]) -> Config:
    workspace = Workspace.by_hand(arguments.workflow)
    return workspace.load_config(Experiment("config", tuple(files), tuple(overrides)), check_files=False, partial=True)


def _check(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Check one config, or every experiment of the workflow config; report all errors of all of them."""
    if arguments.base:
        workspace = Workspace.by_hand(arguments.workflow)
        experiments = {"config": Experiment("config", tuple(arguments.base), tuple(overrides))}
    else:
        workspace = Workspace.load(arguments.workflow)
        experiments = {
            name: replace(known, set=(*known.set, *overrides), typed=len(overrides))
            for name, known in workspace.experiments.items()
        }
    errors: list[ConfigError] = []
    notices: dict[str, None] = {}
    for name, experiment in experiments.items():
        try:
            config = workspace.load_config(experiment, check_files=not arguments.no_files)
            if not arguments.no_files:
                _check_prompts(config)
                if (parent := workspace.parent(config)) is not None:
                    workspace.chain(parent)
        except ConfigError as error:
            errors += error.errors if isinstance(error, ConfigErrors) else [error]
            continue
        notices.update(dict.fromkeys(config.notices))
        if (problem := needs_gpu(config.values)) and not has_gpu():
            notices[f"{problem}; no GPU found on this machine"] = None
        print(f"{name}: ok")
    _tell(notices)
    if errors:
        raise ConfigErrors(list({str(error): error for error in errors}.values()))


def _check_prompts(config: Config) -> None:
    """Check the lines of the prompt file and their images. Raises ConfigErrors."""
    if "args.input_file" in config.files:
        try:
            read_prompts(config.files["args.input_file"], config.values["args"]["image2video"])
        except ConfigError as error:
            raise ConfigErrors([error]) from None


def _tell(notices: Iterable[str]) -> None:
    for notice in notices:
        _log.info("note: %s", notice)
