"""The command line of `cogtune`: its subcommands, each of which has its own file."""

import argparse

from cogtune.commands import config, doctor, new, plan, run, stage, store, sweep, watch, weights

_EXAMPLES = """examples:
  cogtune new mine --data "my clips" --model cogvideox-5b --lora --device 4090
  cogtune plan mine
  cogtune run mine
  cogtune watch mine
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
    parser = argparse.ArgumentParser(
        "cogtune",
        description="Fine-tune CogVideoX.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (new, plan, run, watch, stage, sweep, config, weights, store, doctor):
        module.add_to(commands)
    return parser
