"""`cogtune weights`: what weight files hold, and other formats of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cogtune.commands.options import Subcommands
from cogtune.config.schema.args import EXPORT_FORMATS
from cogtune.errors import UserError

_INSPECT = """examples:
  cogtune weights inspect CogVideoX-2b-sat/transformer
  cogtune weights inspect CogVideoX-5b --base config/cogvideox_5b.yaml --full
  cogtune weights inspect pytorch_lora_weights.safetensors --json
Exit code 1 if it does not fit the config that --base names."""
_CONVERT = f"""formats:
{"".join(f"  {name:16}{about}" + chr(10) for name, about in EXPORT_FORMATS.items())}examples:
  cogtune weights convert pytorch_lora_weights.safetensors --to comfyui_lora
  cogtune weights convert CogVideoX-2b-sat/transformer --to diffusers --precision fp16 -o transformer
  cogtune weights convert CogVideoX-5b --lora pytorch_lora_weights.safetensors --to merged -o merged-5b
  cogtune weights convert ckpts/lora-disney-08-20-13-28 --alpha 1 --to diffusers_lora"""
_CONVERT_OPTIONS = ("lora", "alpha", "precision", "license")
_RAW = argparse.RawDescriptionHelpFormatter


def add_to(commands: Subcommands) -> None:
    """The subcommand and its actions."""
    text = "say what weight files hold, convert them"
    command = commands.add_parser("weights", help=text, description=text)
    command.set_defaults(run_command=run)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "what a file or folder of weights holds, and which configs it fits; reads headers only"
    inspect = actions.add_parser("inspect", help=text, description=text, epilog=_INSPECT, formatter_class=_RAW)
    inspect.add_argument("path", type=Path)
    inspect.add_argument(
        "--base", nargs="+", metavar="FILE", help="hold it against this config (default: config/*.yaml)"
    )
    inspect.add_argument("--json", action="store_true", help="all of it, for programs")
    inspect.add_argument("--full", action="store_true", help="every name that does not fit")
    text = "write weights in another format; every tensor is read back before the result appears"
    convert = actions.add_parser("convert", help=text, description=text, epilog=_CONVERT, formatter_class=_RAW)
    convert.add_argument("path", type=Path, help="weights of any format that `inspect` knows")
    convert.add_argument("--to", required=True, choices=list(EXPORT_FORMATS), metavar="FORMAT", help="see below")
    convert.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="default: ./<name>-<FORMAT>; never overwritten"
    )
    convert.add_argument("--lora", type=Path, metavar="PATH", help="a LoRA to put over the weights")
    convert.add_argument("--base", nargs="+", metavar="FILE", help="YAML of the network (default: the one that fits)")
    convert.add_argument(
        "--alpha", type=float, help="of SAT adapters, whose files do not say it (default: YAML's, or 1)"
    )
    convert.add_argument("--precision", choices=["fp32", "bf16", "fp16"], help="default: as it is")
    convert.add_argument("--license", help="noted in the file")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Returns the exit code. Raises UserError."""
    if overrides:
        raise UserError(f"weights takes no overrides; found {' '.join(overrides)} behind `--`")
    if arguments.action == "inspect":
        from cogtune.commands import weights_inspect

        return weights_inspect.run(arguments.path, arguments.base or [], arguments.json, arguments.full)
    from cogtune.commands.weights_convert import convert

    asked: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name in _CONVERT_OPTIONS}
    print(convert(arguments.path, arguments.to, arguments.output, base=arguments.base or (), **asked))
    return 0
