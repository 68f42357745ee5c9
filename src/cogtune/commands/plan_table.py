"""A plan as people read it: one table an experiment, the reasons under it, totals at the end. 100 columns are enough."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cogtune.plan.estimate import Estimate
from cogtune.plan.survey import COMPLETE, HALF_DONE, STALE, UP_TO_DATE, Step, Survey
from cogtune.runtime.machines import Machine

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {UP_TO_DATE: "green", STALE: "yellow", HALF_DONE: "yellow", COMPLETE: "cyan"}
_WORTH_TELLING = 1e9
_MARGIN = "       "
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def draw(surveys: Sequence[Survey], machine: Machine, console: "Console") -> None:
    """Print everything."""
    for survey in surveys:
        _draw_one(survey, console)
    _draw_total(surveys, machine, console)


def _draw_one(survey: Survey, console: "Console") -> None:
    from rich.markup import escape

    why = f"only what {survey.only_for} starts from" if survey.only_for else ", ".join(survey.base)
    console.print(f"[bold]{escape(survey.experiment)}[/bold]  {escape(why)}", highlight=False)
    if any(step.runs for step in survey.steps):
        _draw_stages(survey, console)
        for note in (text for step in survey.steps for text in step.notes):
            _write(note, console, "  ", "      ")
        _draw_reasons(survey, console)
    else:
        total = ", ".join(_amount(step) for step in survey.steps if step.stage in ("latents", "text", "train"))
        console.print(f"  [green]up to date[/green]: nothing would run ({total})", highlight=False)
    for warning in (text for step in survey.steps for text in step.warnings):
        _write(warning, console, "  ", "      ", "red")
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
    """Stages that run for the same reasons share a line; the lines are wrapped, and go on further in."""
    console.print("  [dim]why[/dim]")
    for stages, texts in _grouped(survey.steps):
        head = f"{', '.join(stages)}:"
        lines = [f"{head} {texts[0]}"] if len(texts) == 1 else [head, *(f"  {text}" for text in texts)]
        for line in lines:
            _write(line, console, "    ", "        ")


def _write(text: str, console: "Console", first: str, further: str, style: str | None = None) -> None:
    """Wrapped between words where it is too long; a path that is longer than a line stays whole."""
    lines = textwrap.wrap(
        text, console.width, initial_indent=first, subsequent_indent=further, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _grouped(steps: Iterable[Step]) -> list[tuple[list[str], list[str]]]:
    """Stages that run for the same reasons, side by side. What an earlier stage said already is not said again where a
    stage has another reason: that it stands on the earlier one."""
    found: list[tuple[list[str], list[str]]] = []
    said: set[str] = set()
    for step in steps:
        new = [reason.text for reason in step.why if reason.kind == "upstream" or reason.text not in said]
        texts = new or [reason.text for reason in step.why]
        said.update(reason.text for reason in step.why if reason.kind in ("key", "file", "data"))
        if not texts:
            continue
        if found and found[-1][1] == texts:
            found[-1][0].append(step.stage)
        else:
            found.append(([step.stage], texts))
    return found


def _amount(step: Step) -> str:
    work = step.work
    unit = work.unit if work.total != 1 else work.unit.removesuffix("s")
    if not work.unit.endswith("s"):  # there is one only: the model, the report
        return "1" if work.todo else "–"
    if not work.total:
        return "–"
    if not step.runs or not work.todo:
        return f"– ({work.total:,} {unit})" if step.runs else f"{work.total:,} {unit}"
    return f"{work.todo:,} of {work.total:,} {unit}" if work.todo < work.total else f"{work.todo:,} {unit}"


def _figures(step: Step) -> tuple[str, str, str, str]:
    found = step.estimate
    if found is None:
        return "", "", "", ""
    about = "" if found.basis == "measured" else "~"
    time = "?" if found.seconds is None else f"{about}{duration(found.seconds)}"
    memory = f"{about}{size(found.memory)}" if found.memory else ""
    return time, size(found.disk) if found.disk else "", str(found.devices or ""), memory


def _draw_total(surveys: Sequence[Survey], machine: Machine, console: "Console") -> None:
    steps = distinct(surveys)
    device = machine.device
    on = (
        f"{machine.count} x {device.name}"
        if device.gpu
        else "this CPU (no GPU was found; `--device H100` plans for one)"
    )
    if not steps:
        console.print("nothing to do", highlight=False)
        return
    known = [step.estimate for step in steps if step.estimate]
    seconds = sum(estimate.seconds or 0.0 for estimate in known)
    unknown = sum(estimate.seconds is None for estimate in known)
    peak = max((estimate.memory for estimate in known), default=0.0)
    host = max((estimate.host for estimate in known), default=0.0)
    words = [
        f"{len(steps)} jobs",
        f"{duration(seconds)} one after the other",
        f"{size(sum(e.disk for e in known))} of disk",
    ]
    words += [f"at most {size(peak)} {'on a device' if device.gpu else 'in a process'}"] if peak else []
    words += [f"{size(host)} of CPU memory"] if host > _WORTH_TELLING and device.gpu else []
    told = [f"estimated for {on}"]
    if unknown:
        told.append(f"the time of {unknown} of them is not known: {_why_unknown(known, device.name)}")
    if any(estimate.basis == "modelled" for estimate in known):
        told.append("~ modelled (docs/cost_model.md); without ~: scaled from an earlier run")
    _write(f"total  {', '.join(filter(None, words))}", console, "", _MARGIN)
    for line in told:
        _write(line, console, _MARGIN, _MARGIN)


def _why_unknown(estimates: Sequence[Estimate], device: str) -> str:
    if any(estimate.basis == "unknown" for estimate in estimates):
        return "there is no cost model for their stage, or for a component of yours"
    return f"there are no figures for {device}; use --device to pick a similar GPU"


def distinct(surveys: Iterable[Survey]) -> list[Step]:
    """Steps that would run, each job once however many experiments share it."""
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
