"""`cogtune <stage>` and the commands around it."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.schema.args import EXPORT_FORMATS, ArgsSection
from cogtune.config.schema.common import RANKS
from cogtune.errors import UserError
from cogtune.runtime.failures import explained
from cogtune.work.slices import read_slice
from cogtune.work.stages import STAGES

_STAGE_HELP = {
    "scan": "find videos and captions, reject what cannot be used, write the data report",
    "preprocess": "choose the frames of every clip and prove that they decode",
    "latents": "encode every clip with the 3D VAE into the latent cache",
    "images": "image-to-video: encode the noised first frame of every clip",
    "text": "encode every caption with T5 into the text cache",
    "train": "train the diffusion transformer (LoRA or full) with DeepSpeed; resumes by itself",
    "export": "write the trained weights in the format that other tools load, and prove that they load",
    "sample": "make videos from captions, before and after training",
    "evaluate": "measure samples and reconstruction, write metrics.json",
    "report": "publish results/<experiment>/: report.html, metrics, config, links",
}
_EXAMPLES = """examples:
  cogtune config check --base config/cogvideox_2b_lora.yaml config/sft.yaml -- args.load=CogVideoX-2b-sat/transformer
  cogtune config show  --base config/tiny/demo.yaml -- deepspeed.optimizer.params.lr=1e-4
  cogtune latents      --base config/tiny/demo.yaml
  cogtune plan         --base config/cogvideox_5b.yaml config/sft.yaml --device H100 --ranks 8
  cogtune train        --base config/tiny/demo.yaml --ranks 2 -- --train-iters 10
  cogtune weights inspect CogVideoX-2b-sat/transformer
  cogtune store drop 3f0c9a51d2b7
  cogtune store verify --repair
Values after `--` win over every file: key.path=value, or SAT's own flags (--train-iters 10)."""

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


def build_parser() -> argparse.ArgumentParser:
    """The command line. Everything after ``--`` is overrides and never reaches argparse."""
    parser = argparse.ArgumentParser(
        "cogtune", description="Tune CogVideoX.", epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage in STAGES:
        _add_stage(commands, stage)
    sweep = commands.add_parser(
        "sweep", help="compare the members of a sweep in one report, results/<sweep>/report.html"
    )
    _add_sweep(sweep)
    _add_plan(commands)
    config = commands.add_parser("config", help="show, check, compare and explain configs")
    _add_config(config.add_subparsers(dest="action", required=True, metavar="ACTION"))
    weights = commands.add_parser("weights", help="say what weight files hold, convert them")
    _add_weights(weights.add_subparsers(dest="action", required=True, metavar="ACTION"))
    store = commands.add_parser(
        "store", help="look into the store, drop a key from it, verify that it holds what was written"
    )
    store.add_argument("action", choices=["list", "drop", "verify"])
    store.add_argument("key", nargs="?", help="12 hex digits, as in the folder's name (verify: default all)")
    store.add_argument("--repair", action="store_true", help="verify: take out what is damaged; the next run makes it")
    store.add_argument("--store", type=Path, metavar="DIR", help="default: store_dir of --workflow")
    store.add_argument("--results", type=Path, metavar="DIR", help="whose receipts to remove (default: results_dir)")
    store.add_argument("--workflow", type=Path, default=Path("config/config.yaml"), metavar="FILE")
    return parser


def _add_stage(commands: argparse._SubParsersAction, stage: str) -> None:
    epilog = f"example: cogtune {stage} --base config/tiny/demo.yaml -- args.seed=7"
    command = commands.add_parser(stage, help=_STAGE_HELP[stage], description=_STAGE_HELP[stage], epilog=epilog)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--base", nargs="+", metavar="FILE", help="SAT-style YAML files, later ones win; overrides follow `--`"
    )
    _add_slice(source, command)
    _add_output(command)
    command.add_argument("--name", default="by-hand", help="experiment name, for results/<name> (default: by-hand)")
    command.add_argument(
        "--ranks", type=_ranks, metavar="N", help="processes that train together (default: from --workflow)"
    )


def _ranks(text: str) -> int:
    if not text.isdecimal() or int(text) not in RANKS:
        raise argparse.ArgumentTypeError(f"expected a whole number from {RANKS}; found {text!r}")
    return int(text)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--receipt", type=Path, metavar="FILE", help="where to write the receipt (default: where Snakemake looks)"
    )
    command.add_argument("--log", type=Path, metavar="FILE", help="also write everything printed here")
    command.add_argument("--plain", action="store_true", help="progress as lines, for logs and parallel jobs")
    command.add_argument(
        "--workflow",
        type=Path,
        default=Path("config/config.yaml"),
        metavar="FILE",
        help="store, results, other experiments",
    )


def _add_sweep(command: argparse.ArgumentParser) -> None:
    command.epilog = "example: cogtune sweep lr    (once its members are done; snakemake sweep_lr makes them, too)"
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("name", nargs="?", help="as under sweep: in the workflow config")
    _add_slice(source, command)
    _add_output(command)


def _add_slice(source: argparse._MutuallyExclusiveGroup, command: argparse.ArgumentParser) -> None:
    source.add_argument("--slice", type=Path, metavar="FILE", help="a slice that Snakemake's main process wrote")
    command.add_argument(
        "--run", type=Path, metavar="FILE", help="with --slice: results/.runs/….json, what the run tells its jobs"
    )


def _add_plan(commands: argparse._SubParsersAction) -> None:
    told = "what would run, why, and what it costs; runs nothing but the scans"
    plan = commands.add_parser("plan", help=told, description=told, epilog="example: cogtune plan demo --device H100")
    plan.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="of the workflow config (default: all)")
    plan.add_argument(
        "--base", nargs="+", metavar="FILE", help="plan one config instead; overrides follow `--` in either case"
    )
    plan.add_argument("--workflow", type=Path, default=Path("config/config.yaml"), metavar="FILE")
    plan.add_argument("--format", choices=["table", "json"], default="table")
    plan.add_argument(
        "--device", metavar="NAME", help="estimate for this GPU (H100, A100, 4090, …), not for this machine"
    )
    plan.add_argument(
        "--ranks", type=_ranks, metavar="N", help="processes that train together (default: from --workflow)"
    )
    plan.add_argument("--name", default="by-hand", help="with --base: experiment name (default: by-hand)")
    plan.add_argument("--plain", action="store_true", help="progress of a scan as lines")


def _add_config(actions: argparse._SubParsersAction) -> None:
    show = actions.add_parser("show", help="the merged config; at each key, who set it")
    show.add_argument("--format", choices=["yaml", "json"], default="yaml")
    show.add_argument("--stage", choices=list(STAGES), help="only what this stage reads")
    check = actions.add_parser("check", help="exit 0 or 2; without --base, all experiments of the workflow config")
    check.add_argument("--no-files", action="store_true", help="do not look whether files exist")
    for command in (show, check):
        command.add_argument("--base", nargs="+", metavar="FILE", required=command is show)
    diff = actions.add_parser("diff", help="the keys in which two configs differ")
    diff.add_argument("files", nargs=2, metavar="FILE")
    for command in (show, check, diff):
        command.add_argument(
            "--workflow", type=Path, default=Path("config/config.yaml"), metavar="FILE", help="experiments, plugins"
        )
    explain = actions.add_parser("explain", help="what a key means, its type, default, and the stages that read it")
    explain.add_argument("key")


def _add_weights(actions: argparse._SubParsersAction) -> None:
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
    """Do what was asked; returns the exit code."""
    if arguments.command == "config":
        from cogtune.commands import config

        return config.run(arguments, overrides)
    if arguments.command == "store":
        folder, results = _places(arguments)
        if arguments.action == "verify":
            from cogtune.commands import store_verify

            return store_verify.run(folder, arguments.key, arguments.repair, results)
        from cogtune.commands import store

        return store.run(arguments.action, folder, arguments.key, results)
    if arguments.command == "weights":
        return _weights(arguments)
    from cogtune.commands import stage

    if arguments.command == "plan":
        return stage.plan(arguments, overrides)
    from cogtune.stages.execute import execute_logged
    from cogtune.stages.job import Job

    if bool(arguments.slice) != bool(arguments.run):
        raise UserError("--slice and --run go together: the job, and what its run tells it")
    if arguments.slice:
        part, receipt = read_slice(arguments.slice, arguments.run.resolve()), arguments.receipt
        store = arguments.slice.resolve().parent.parent
    else:
        prepare = stage.prepare_sweep if arguments.command == "sweep" else stage.prepare
        part, receipt, store = prepare(arguments, overrides)
    if part.stage != arguments.command:
        raise UserError(f"{arguments.slice}: is a slice of stage {part.stage!r}, not of {arguments.command!r}")
    command = "cogtune " + shlex.join(word for word in sys.argv[1:] if word != "--plain")
    execute_logged(Job(part, store, arguments.log, arguments.plain), receipt, command)
    return 0


def _places(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Store and results folder: as asked for, else those of the workflow config, else the defaults."""
    from cogtune.work.workflow_config import workflow_values

    named = workflow_values(arguments.workflow, {}) if arguments.workflow.exists() else {}
    store = arguments.store or Path(named.get("store_dir", "store"))
    return store, arguments.results or Path(named.get("results_dir", "results"))


def _weights(arguments: argparse.Namespace) -> int:
    if arguments.action == "inspect":
        from cogtune.commands import weights_inspect

        return weights_inspect.run(arguments.path, arguments.base or [], arguments.json, arguments.full)
    from cogtune.commands.weights_convert import convert

    asked: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name in _CONVERT_OPTIONS}
    print(convert(arguments.path, arguments.to, arguments.output, base=arguments.base or (), **asked))
    return 0


def _unknown_words(unknown: Sequence[str], words: Sequence[str]) -> str:
    """Usage: what argparse does not know; SAT's own flags stand behind `--`, as upstream's scripts do not write them."""
    given = shlex.join(unknown)
    known = shlex.join(word for word in words if word not in unknown)
    name = unknown[0].removeprefix("--").partition("=")[0].replace("-", "_")
    if unknown[0].startswith("--") and name in ArgsSection.__dataclass_fields__:
        return f"{given}: values of the config follow `--`: cogtune {known} -- {given}"
    return f"unrecognized arguments: {given}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 done, 2 usage or config, 1 anything else."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(words[:cut])
    if unknown:
        parser.error(_unknown_words(unknown, words[:cut]))
    try:
        with explained():
            return run(arguments, words[cut + 1 :])
    except (ConfigError, ConfigErrors, UserError) as error:
        if arguments.debug:
            raise
        print(f"cogtune: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("cogtune: interrupted; what was finished is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
