"""`cogtune weights`: get, inspect and convert weight files."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cogtune.checkpoints.published import LAYOUTS, MODELS
from cogtune.commands.options import Subcommands
from cogtune.config.hub_paths import Pins, is_hub_path, local_copy
from cogtune.config.schema.args import EXPORT_FORMATS
from cogtune.errors import UserError

_GET = f"""models: {", ".join(MODELS)}
examples:
  cogtune weights get cogvideox-5b --dry-run
  cogtune weights get cogvideox-5b --to /big/disk --yes
  cogtune weights get hf://zai-org/CogVideoX-2b@main/vae
For a model, --dry-run shows sizes, licence, folders and the lines to download by hand, without the network. The same command
resumes an interrupted download."""
_INSPECT = """examples:
  cogtune weights inspect weights/cogvideox-2b
  cogtune weights inspect weights/cogvideox-5b --base config/cogvideox_5b.yaml --full
  cogtune weights inspect pytorch_lora_weights.safetensors --json
Exit code 1 if the weights do not fit the config of --base."""
_CONVERT = f"""formats:
{"".join(f"  {name:16}{about}" + chr(10) for name, about in EXPORT_FORMATS.items())}examples:
  cogtune weights convert pytorch_lora_weights.safetensors --to comfyui_lora
  cogtune weights convert weights/cogvideox-2b-sat/transformer --to diffusers --precision fp16 -o transformer
  cogtune weights convert weights/cogvideox-5b --lora pytorch_lora_weights.safetensors --to merged -o merged-5b
  cogtune weights convert pytorch_lora_weights.safetensors --to diffusers_lora --strength 0.5 -o half
  cogtune weights convert ckpts/lora-disney-08-20-13-28 --alpha 1 --to diffusers_lora"""
_CONVERT_OPTIONS = ("lora", "alpha", "strength", "precision", "license")
_RAW = argparse.RawDescriptionHelpFormatter


def add_to(commands: Subcommands) -> None:
    """The subcommand and its actions."""
    text = "get, inspect and convert weight files"
    command = commands.add_parser("weights", help=text, description=text)
    command.set_defaults(run_command=run)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "download the weights of a published model, or of a repository of the Hugging Face Hub, and verify them"
    get = actions.add_parser("get", help=text, description=text, epilog=_GET, formatter_class=_RAW)
    get.add_argument("target", metavar="NAME", help="a model (see below), or hf://OWNER/NAME[@REVISION][/PATH]")
    get.add_argument("--layout", choices=LAYOUTS, help="of a model (default: diffusers, which cogtune reads too)")
    get.add_argument("--to", metavar="FOLDER", help="of a model: folder instead of ./weights")
    get.add_argument("--revision", metavar="R", help="of a model: branch, tag or commit (default: main; T5: main)")
    get.add_argument("--update", action="store_true", help="of hf://…: pin the newest commit of the revision")
    get.add_argument("--dry-run", action="store_true", help="show what would be downloaded")
    get.add_argument("--yes", action="store_true", help="do not ask")
    text = "show the contents of a weight file or folder, and the configs that it fits; reads headers only"
    inspect = actions.add_parser("inspect", help=text, description=text, epilog=_INSPECT, formatter_class=_RAW)
    inspect.add_argument("path", help="weights: a path, or hf://… that is pinned")
    inspect.add_argument("--base", nargs="+", metavar="FILE", help="compare with this config (default: config/*.yaml)")
    inspect.add_argument("--json", action="store_true", help="print all details as JSON")
    inspect.add_argument("--full", action="store_true", help="list every name that does not fit")
    text = "convert weights to another format; every tensor is verified before the result is moved into place"
    convert = actions.add_parser("convert", help=text, description=text, epilog=_CONVERT, formatter_class=_RAW)
    convert.add_argument("path", help="weights in any format that `inspect` supports")
    convert.add_argument("--to", required=True, choices=list(EXPORT_FORMATS), metavar="FORMAT", help="see below")
    convert.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="default: ./<name>-<FORMAT>; existing files are never overwritten",
    )
    convert.add_argument("--lora", metavar="PATH", help="a LoRA to add to the weights")
    convert.add_argument(
        "--base", nargs="+", metavar="FILE", help="YAML of the network (default: the file in ./config that fits)"
    )
    convert.add_argument(
        "--alpha",
        type=float,
        help="alpha of SAT adapters, whose files do not contain it (default: from the YAML, or 1)",
    )
    convert.add_argument(
        "--strength",
        type=float,
        metavar="S",
        help="multiply the LoRA by S: 0.5 is half of it. Alpha is scaled where the format stores it, else the weights",
    )
    convert.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"], help="precision of the result (default: unchanged)"
    )
    convert.add_argument("--license", help="license for the file's metadata")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Returns the exit code. Raises UserError."""
    if overrides:
        raise UserError(f"weights takes no overrides; found {' '.join(overrides)} after `--`")
    if arguments.action == "get":
        from cogtune.commands import weights_get

        names = ("layout", "to", "revision", "dry_run", "yes", "update")
        weights_get.run(arguments.target, weights_get.Options(**{name: getattr(arguments, name) for name in names}))
        return 0
    if arguments.action == "inspect":
        from cogtune.commands import weights_inspect

        return weights_inspect.run(_local(arguments.path), arguments.base or [], arguments.json, arguments.full)
    from cogtune.commands.weights_convert import convert

    options: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name in _CONVERT_OPTIONS}
    options["lora"] = None if arguments.lora is None else _local(arguments.lora)
    print(convert(_local(arguments.path), arguments.to, arguments.output, base=arguments.base or (), **options))
    return 0


def _local(path: str) -> Path:
    """A path of the command line; `hf://…` is its pinned copy."""
    return Path(local_copy(path, Pins()).path if is_hub_path(path) else path)
