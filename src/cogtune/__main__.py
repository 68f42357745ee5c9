"""`cogtune`: the command line. Each subcommand has its own file in `commands/`."""

import argparse
import shlex
import sys
from collections.abc import Sequence

from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.schema.args import ArgsSection
from cogtune.errors import UserError
from cogtune.runtime.failures import explained
from cogtune.runtime.log import log_to_terminal
from cogtune.runtime.stopping import RESUME, Interrupted, Stopped

_EXAMPLES = """examples:
  cogtune new mine --data "my clips" --model cogvideox-5b --lora --device 4090
  cogtune plan mine
  cogtune run mine
  cogtune sample mine --prompt "a rabbit waves" --strength 0 0.5 1
  cogtune plan demo_lora --device H100 -- deepspeed.optimizer.params.lr=1e-4
  cogtune plan --base config/cogvideox_5b.yaml config/sft.yaml --clips 100 --device H100 --ranks 8
  cogtune config check
  cogtune config show --base config/tiny/demo.yaml -- deepspeed.optimizer.params.lr=1e-4
  cogtune doctor --profile profiles/slurm
one stage by hand, and the store:
  cogtune scan --base config/tiny/demo.yaml -- args.seed=7
  cogtune weights inspect weights/cogvideox-2b
  cogtune store list
  cogtune store drop 3f0c9a51d2b7
  cogtune store verify --repair
  cogtune store gc --older-than 2w
Values after `--` override all files: key.path=value, or SAT's flags (--train-iters 10)."""


def build_parser() -> argparse.ArgumentParser:
    """The command line. Arguments after ``--`` are overrides and are not passed to argparse."""
    # Imported only here, which takes up to a second: `main` answers a Ctrl-C during that time.
    from cogtune.commands import config, doctor, new, plan, run, stage, store, sweep, weights

    parser = argparse.ArgumentParser(
        "cogtune",
        description="Fine-tune CogVideoX.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (new, plan, run, stage, sweep, config, weights, store, doctor):
        module.add_to(commands)
    return parser


def _unknown_words(unknown: Sequence[str], words: Sequence[str]) -> str:
    """The usage error for unknown arguments. SAT's flags must follow `--`, unlike in upstream's scripts."""
    unknown_text = shlex.join(unknown)
    known = shlex.join(word for word in words if word not in unknown)
    name = unknown[0].removeprefix("--").partition("=")[0].replace("-", "_")
    if unknown == ["--debug"]:
        return f"put --debug before the command: cogtune --debug {known}"
    if unknown[0].startswith("--") and name in ArgsSection.__dataclass_fields__.keys() - {"base"}:
        return f"{unknown_text}: put config values after `--`: cogtune {known} -- {unknown_text}"
    return f"unrecognized arguments: {unknown_text}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 success, 2 usage or config error, 130 Ctrl-C, 143 SIGTERM, 1 any other error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except Interrupted:
        return 130
    except KeyboardInterrupt:
        _say_stopped(words)
        return 130
    except Stopped as stopped:
        if not stopped.explained:
            _say_stopped(words)
        raise


def _run(words: Sequence[str]) -> int:
    log_to_terminal()
    cut = words.index("--") if "--" in words else len(words)
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(words[:cut])
    if unknown:
        parser.error(_unknown_words(unknown, words[:cut]))
    try:
        with explained():
            return arguments.run_command(arguments, words[cut + 1 :])
    except (ConfigError, ConfigErrors, UserError) as error:
        if arguments.debug:
            raise
        print(f"cogtune: {error}", file=sys.stderr)
        return error.exit_code


def _say_stopped(words: Sequence[str]) -> None:
    """The last line after Ctrl-C or SIGTERM. Of a job of Snakemake, its main process says it."""
    if "--plain" not in words:
        print(f"cogtune: stopped; finished work is kept. {RESUME}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
