"""Print a plan: one table per experiment with the reasons below, and totals at the end. Fits into 100 columns."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cogtune.plan.estimate import Estimate
from cogtune.plan.survey import CACHED, PARTIAL, STALE, UP_TO_DATE, Step, Survey
from cogtune.runtime.machines import Machine

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {UP_TO_DATE: "green", STALE: "yellow", PARTIAL: "yellow", CACHED: "cyan"}
_WORTH_TELLING = 1e9
_MARGIN = "       "
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def draw(surveys: Sequence[Survey], machine: Machine, console: "Console") -> None:
    """Print all surveys and the totals."""
    for survey in surveys:
        _draw_one(survey, console)
    _draw_total(surveys, machine, console)


def _draw_one(survey: Survey, console: "Console") -> None:
    from rich.markup import escape

    why = f"only the stages that {survey.only_for} needs" if survey.only_for else ", ".join(survey.base)
    console.print(f"[bold]{escape(survey.experiment)}[/bold]  {escape(why)}", highlight=False)
    if any(step.runs for step in survey.steps):
        _draw_stages(survey, console)
        for note in (text for step in survey.steps for text in step.notes):
            _write(note, console, "  ", "      ")
        _draw_reasons(survey, console)
    else:
        total = ", ".join(_amount(step) for step in survey.steps if step.stage in ("latents", "text", "train"))
        console.print(f"  [green]up to date[/green]: nothing to run ({total})", highlight=False)
    for warning in (text for step in survey.steps for text in step.warnings):
        _write(warning, console, "  ", "      ", "red")
    for line in survey.assumptions:
        _write(line, console, "  ", "      ", "yellow")
    console.print()


def _draw_stages(survey: Survey, console: "Console") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("stage", "state", "to make"):
        table.add_column(name, no_wrap=True)
    for name in ("time", "disk", "devices", "memory each"):
        table.add_column(name, no_wrap=True, justify="right")
    for step in survey.steps:
        table.add_row(f"  {step.stage}", f"[{_COLOURS[step.state]}]{step.state}", _amount(step), *_figures(step))
    console.print(table)


def _draw_reasons(survey: Survey, console: "Console") -> None:
    """Print the reasons; stages with equal reasons share a line. Long lines are wrapped and indented."""
    console.print("  [dim]why[/dim]")
    for stages, texts in _grouped(survey.steps):
        head = f"{', '.join(stages)}:"
        lines = [f"{head} {texts[0]}"] if len(texts) == 1 else [head, *(f"  {text}" for text in texts)]
        for line in lines:
            _write(line, console, "    ", "        ")


def _write(text: str, console: "Console", first: str, further: str, style: str | None = None) -> None:
    """Print text wrapped between words; words longer than a line are not broken."""
    lines = textwrap.wrap(
        text, console.width, initial_indent=first, subsequent_indent=further, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _grouped(steps: Iterable[Step]) -> list[tuple[list[str], list[str]]]:
    """Group adjacent stages with equal reasons. Reasons already listed for an earlier stage are omitted if the stage has
    another reason, such as depending on that stage."""
    groups: list[tuple[list[str], list[str]]] = []
    listed: set[str] = set()
    for step in steps:
        new = [reason.text for reason in step.why if reason.kind == "upstream" or reason.text not in listed]
        texts = new or [reason.text for reason in step.why]
        listed.update(reason.text for reason in step.why if reason.kind in ("key", "file", "data"))
        if not texts:
            continue
        if groups and groups[-1][1] == texts:
            groups[-1][0].append(step.stage)
        else:
            groups.append(([step.stage], texts))
    return groups


def _amount(step: Step) -> str:
    work = step.work
    unit = work.unit if work.total != 1 else work.unit.removesuffix("s")
    if not work.unit.endswith("s"):  # a single item: the model, the report
        return "1" if work.todo else "–"
    if not work.total:
        return "–"
    if not step.runs or not work.todo:
        return f"– ({work.total:,} {unit})" if step.runs else f"{work.total:,} {unit}"
    return f"{work.todo:,} of {work.total:,} {unit}" if work.todo < work.total else f"{work.todo:,} {unit}"


def _figures(step: Step) -> tuple[str, str, str, str]:
    estimate = step.estimate
    if estimate is None:
        return "", "", "", ""
    about = "" if estimate.basis == "measured" else "~"
    time = "?" if estimate.seconds is None else f"{about}{duration(estimate.seconds)}"
    memory = f"{about}{size(estimate.memory)}" if estimate.memory else ""
    return time, size(estimate.disk) if estimate.disk else "", str(estimate.devices or ""), memory


def _draw_total(surveys: Sequence[Survey], machine: Machine, console: "Console") -> None:
    steps = distinct(surveys)
    device = machine.device
    on = (
        f"{machine.count} x {device.name}"
        if device.gpu
        else "this CPU (no GPU found; use --device to estimate for a GPU, e.g. H100)"
    )
    if not steps:
        console.print("nothing to do", highlight=False)
        return
    known = [step.estimate for step in steps if step.estimate]
    seconds = sum(max(1, estimate.parts) * (estimate.seconds or 0.0) for estimate in known)
    unknown = sum(estimate.seconds is None for estimate in known)
    peak = max((estimate.memory for estimate in known), default=0.0)
    host = max((estimate.host for estimate in known), default=0.0)
    words = [
        f"{job_count(steps)} jobs",
        f"{duration(seconds)} if run serially",
        f"{size(sum(e.disk for e in known))} of disk",
    ]
    room = f", which has {size(device.memory)}" if device.gpu and device.memory else ""
    words += [f"at most {size(peak)} {'on a device' if device.gpu else 'in a process'}{room}"] if peak else []
    words += [f"{size(host)} of CPU memory"] if host > _WORTH_TELLING and device.gpu else []
    if machine.assumed:
        on += f" ({'1 rank' if machine.count == 1 else f'{machine.count} ranks, one on each'}; --ranks N changes it)"
    notes = [f"estimated for {on}"]
    if unknown:
        notes.append(f"no time estimate for {unknown} jobs: {_why_unknown(known, device.name)}")
    if any(estimate.basis == "modelled" for estimate in known):
        notes.append("~ modelled (docs/cost_model.md); without ~: scaled from an earlier run")
    _write(f"total  {', '.join(filter(None, words))}", console, "", _MARGIN)
    for line in notes:
        _write(line, console, _MARGIN, _MARGIN)


def _why_unknown(estimates: Sequence[Estimate], device: str) -> str:
    if any(estimate.basis == "unknown" for estimate in estimates):
        return "their stage, or a plugin, has no cost model"
    return f"no performance data for {device}; use --device to pick a similar GPU"


def job_count(steps: Iterable[Step]) -> int:
    """The number of jobs: one a step, and its parts."""
    parts = [step.estimate.parts if step.estimate else 0 for step in steps]
    return len(parts) + sum(parts)


def distinct(surveys: Iterable[Survey]) -> list[Step]:
    """Steps that would run; jobs shared by several experiments count once."""
    jobs: dict[tuple[str, str], Step] = {}
    for step in (step for survey in surveys for step in survey.steps if step.runs):
        jobs.setdefault((step.stage, step.key), step)
    return list(jobs.values())


def duration(seconds: float) -> str:
    """Two significant units at most: 8 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < 1.5 * _HOUR:
        return f"{round(seconds / _MINUTE)} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.1f} h"
    days = seconds / _DAY
    return f"{days:.1f} days" if days < 100 else f"{days:,.0f} days"


def size(count: float) -> str:
    """Bytes in decimal units: 12 MB, 1.4 GB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            value = count / scale
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{max(1, round(count / 1e3))} kB"
