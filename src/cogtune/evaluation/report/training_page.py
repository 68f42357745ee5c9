"""The page of a training that runs: its loss so far. It loads itself again while the training runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cogtune.evaluation.report import plots, summary_text
from cogtune.evaluation.report.report_data import LossPoint

RELOAD_SECONDS = 30
"""Also the interval of training.js."""


@dataclass(frozen=True)
class State:
    """``step`` of ``steps`` are done. ``running``: whether more steps follow in this start. ``files``: (what, path).
    ``skipped``: steps that were skipped, because loss or gradient was not finite."""

    name: str
    step: int
    steps: int
    running: bool
    files: list[tuple[str, str]]
    skipped: int = 0


def render(state: State, training: Sequence[LossPoint], validation: Sequence[LossPoint], overfitting: str = "") -> str:
    """The page as HTML text, with a chart if there are two steps or more. ``overfitting``: a sentence on it, or ""."""
    from cogtune.evaluation.report.page import environment

    if not state.steps:
        headline = "Training starts."
    elif state.step == state.steps:
        headline = f"Training is done: {state.steps:,} steps."
    else:
        verb = "Training: step" if state.running else "Training stopped after step"
        headline = f"{verb} {state.step:,} of {state.steps:,}."
    chart = plots.both(partial(plots.loss_plot, training, validation)) if len(training) > 1 else None
    skipped = f"{state.skipped:,} steps were skipped." if state.skipped else ""
    sentences = [summary_text.training(training, {}), overfitting, skipped]
    text = " ".join(filter(None, sentences))
    return (
        environment("training.js")
        .get_template("training.html.j2")
        .render(
            name=state.name,
            running=state.running,
            headline=headline,
            text=text,
            chart=chart,
            files=state.files,
        )
    )
