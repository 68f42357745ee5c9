"""`cogtune watch [RUN]`: how far a training is, from its log and its lock in the store."""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from cogtune.commands.loss_chart import chart
from cogtune.commands.options import Subcommands, add_workflow
from cogtune.errors import UserError
from cogtune.work.training_log import AVERAGED, ValidationRow
from cogtune.work.training_state import TrainingState, read_state, training_key
from cogtune.work.workflow_config import workflow_values

_EXAMPLES = """examples:
  cogtune watch                    the training that runs, or the one that ran last
  cogtune watch mine               of the experiment `mine`
  cogtune watch 3f0c9a51d2b7       of a folder in store/train, also of a colleague
  cogtune watch mine --once        print once, for scripts
It only reads, so it works on any machine that has the store. Ctrl-C ends it, not the training."""
_SECONDS = 5.0
_SHARE = 0.05
"""Of the time that may be spent on reading: the log of 100,000 steps takes a second or two."""
_HEIGHT = 12


def add_to(commands: Subcommands) -> None:
    """The subcommand."""
    text = "watch a training: loss curve, rate, time left, validation, where it runs"
    command = commands.add_parser(
        "watch", help=text, description=text, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument(
        "training", nargs="?", metavar="RUN", help="experiment, or key of a training (default: newest)"
    )
    command.add_argument("--once", action="store_true", help="print once and end, as without a terminal")
    command.add_argument("--store", type=Path, metavar="DIR", help="default: store_dir of --workflow")
    add_workflow(command, "store_dir, results_dir")
    command.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Show the training until it ends, or once. Raises UserError for an unknown training."""
    if overrides:
        raise UserError(f"watch takes no config values; found {' '.join(overrides)} after `--`")
    values = workflow_values(arguments.workflow if arguments.workflow.exists() else None, {})
    store, results = arguments.store or values.store_dir, values.results_dir
    key = training_key(store, results, arguments.training)
    if arguments.once or not sys.stdout.isatty():
        print(view(read_state(store, results, key), 80))
        return 0
    try:
        _follow(store, results, key)
    except KeyboardInterrupt:
        print("The training goes on." if read_state(store, results, key).running else "")
    return 0


def _follow(store: Path, results: Path, key: str) -> None:
    """Draw the view again until the training has ended."""
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            before = time.monotonic()
            state = read_state(store, results, key)
            live.update(Text(view(state, shutil.get_terminal_size().columns)), refresh=True)
            if not state.running and state.sign is not None:
                return
            time.sleep(max(_SECONDS, (time.monotonic() - before) / _SHARE))


def view(state: TrainingState, width: int) -> str:
    """All that is known, as lines of at most about ``width`` characters."""
    name = f"{state.name} ({state.key})" if state.name else state.key
    lines = [f"{name}: {state.status}"]
    if state.steps:
        lines += [_progress(state), _losses(state), *_skipped(state)]
    lines += _validation(state)
    points = [(row.step, row.loss) for row in state.steps if row.loss is not None]
    lines += chart(points, min(width, 100), _HEIGHT)
    lines.append(f"log: {state.folder / 'log.jsonl'}")
    return "\n".join(lines)


def _progress(state: TrainingState) -> str:
    step, seconds = state.steps[-1].step, state.seconds_per_step
    parts = [f"step {step}"]
    if state.total:
        parts = [f"step {step} of {state.total} ({100 * step // state.total} %)"]
    if seconds is not None:
        parts.append(f"{seconds:.3g} s/step")
        if state.total and step < state.total and state.running:
            parts.append(f"{timedelta(seconds=round(seconds * (state.total - step)))} left")
    rated = next((row for row in reversed(state.steps) if row.tokens_per_second is not None), None)
    if rated is not None:
        parts.append(f"{rated.tokens_per_second:,.0f} tokens/s")
        parts += [f"MFU {rated.mfu:.0%}"] if rated.mfu is not None else []
        parts += [f"peak memory {rated.peak_memory_mib / 1024:.1f} GiB"] if rated.peak_memory_mib else []
    return ", ".join(parts)


def _losses(state: TrainingState) -> str:
    losses = [row.loss for row in state.steps if row.loss is not None][-AVERAGED:]
    last = state.steps[-1]
    parts = [f"loss {sum(losses) / len(losses):.4f} (mean of {len(losses)} steps)"] if losses else ["no loss yet"]
    parts += [f"lr {last.lr:.3g}"] if last.lr is not None else []
    parts += [f"gradient norm {last.grad_norm:.3g}"] if last.grad_norm is not None else []
    return ", ".join(parts)


def _skipped(state: TrainingState) -> list[str]:
    skipped = [row for row in state.steps if row.skipped is not None]
    overflows = sum(bool(row.overflow) for row in state.steps)
    lines = (
        [f"{len(skipped)} steps skipped; the last: step {skipped[-1].step}, {skipped[-1].skipped}"] if skipped else []
    )
    return lines + ([f"{overflows} steps without update while fp16 searched its loss scale"] if overflows else [])


def _validation(state: TrainingState) -> list[str]:
    """The last validation of each set, and its lowest."""
    by_set: dict[str, list[ValidationRow]] = {}
    for row in state.validations:
        clips = "training clips" if row.trained_on else row.set or "valid"
        by_set.setdefault(f"{clips}, {row.weights}" if row.weights else clips, []).append(row)
    lines = []
    for name, rows in by_set.items():
        best = min(rows, key=lambda row: row.validation_loss)
        lines.append(
            f"validation ({name}): {rows[-1].validation_loss:.4f} at step {rows[-1].step}; lowest {best.validation_loss:.4f} "
            f"at step {best.step}"
        )
    return lines
