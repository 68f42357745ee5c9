"""`cogtune config show|check|diff|explain`."""

import argparse
import sys
from collections.abc import Iterable, Sequence

from cogtune.config import show
from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.merge import Config, load_config
from cogtune.data.prompts import read_prompts
from cogtune.plan.experiments import Experiment, Workspace


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Print what was asked for; returns the exit code. Raises ConfigErrors for a config that is wrong."""
    if arguments.action == "explain":
        print(show.explain(arguments.key))
    elif arguments.action == "diff":
        before, after = (load_config([file], overrides, check_files=False, partial=True) for file in arguments.files)
        print("\n".join(show.diff(before, after)) or "no key differs")
    elif arguments.action == "show":
        config = load_config(arguments.base, overrides, check_files=False, partial=True)
        _tell(config.notices)
        render = show.as_json if arguments.format == "json" else show.annotated
        sys.stdout.write(render(config, arguments.stage))
    else:
        _check(arguments, overrides)
    return 0


def _check(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """One config, or every experiment of the workflow's; all errors of all of them."""
    if arguments.base:
        experiments = {"config": Experiment("config", tuple(arguments.base), tuple(overrides))}
    else:
        experiments = Workspace.load(arguments.workflow).experiments
    errors: list[ConfigError] = []
    notices: dict[str, None] = {}
    for name, experiment in experiments.items():
        words = experiment.set if arguments.base else (*experiment.set, *overrides)
        try:
            config = load_config(experiment.base, words, check_files=not arguments.no_files)
            if not arguments.no_files:
                _check_prompts(config)
        except ConfigErrors as error:
            errors += error.errors
            continue
        notices.update(dict.fromkeys(config.notices))
        print(f"{name}: ok")
    _tell(notices)
    if errors:
        raise ConfigErrors(list({str(error): error for error in errors}.values()))


def _check_prompts(config: Config) -> None:
    """The lines of the prompt file, and the pictures that they name. Raises ConfigErrors."""
    if "args.input_file" in config.files:
        try:
            read_prompts(config.files["args.input_file"], config.values["args"]["image2video"])
        except ConfigError as error:
            raise ConfigErrors([error]) from None


def _tell(notices: Iterable[str]) -> None:
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
