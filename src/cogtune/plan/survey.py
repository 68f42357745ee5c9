"""Survey one experiment: for every stage its state, the reasons to run, the amount of work, and its cost."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cogtune.config.merge import Config
from cogtune.data.listing import assumed_columns
from cogtune.plan.assumptions import assumptions
from cogtune.plan.counts import Counts, Work
from cogtune.plan.estimate import Estimate, Estimator
from cogtune.plan.history import History
from cogtune.plan.stage_costs import cost_of
from cogtune.plan.why import Reason, changed_keys, changed_upstream, changed_version, data_changes, differences
from cogtune.work.batches import plan_batches
from cogtune.work.inputs import TrainInput
from cogtune.work.machine_limits import cannot_train_on
from cogtune.work.slices import Slice
from cogtune.work.stage_input import read_input
from cogtune.work.stages import STAGES
from cogtune.work.workspace import Workspace

UP_TO_DATE, STALE, PARTIAL, CACHED = "up to date", "stale", "partial", "cached"
"""Cached: all results are in the store; a job runs only to write the receipt."""
_FEW = 4
"""Maximum number of differing keys listed if the closest run is another experiment's."""


@dataclass(frozen=True)
class Step:
    """One stage of one experiment. ``runs``: whether the workflow would start a job for it."""

    stage: str
    key: str
    state: str
    work: Work
    why: list[Reason] = field(default_factory=list)
    estimate: Estimate | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks on the amount of work."""

    @property
    def runs(self) -> bool:
        return self.state != UP_TO_DATE

    def to_dict(self) -> dict[str, Any]:
        """As JSON data: bytes and seconds as numbers, null if unknown."""
        return {
            "stage": self.stage,
            "key": self.key,
            "state": self.state,
            "todo": self.work.todo,
            "total": self.work.total,
            "shared": self.work.shared,
            "unit": self.work.unit,
            "why": [reason.to_dict() for reason in self.why],
            "estimate": asdict(self.estimate) if self.estimate else None,
            "warnings": self.warnings,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Survey:
    """All steps of an experiment, in order. ``only_for``: the requested experiment that starts from this one.
    ``assumptions``: lines on what is not there yet, so that the plan assumes it."""

    experiment: str
    base: tuple[str, ...]
    steps: list[Step]
    only_for: str | None = None
    assumptions: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        steps = [step.to_dict() for step in self.steps]
        about = {"experiment": self.experiment, "base": list(self.base), "only_for": self.only_for}
        return {**about, "stages": steps, "assumptions": self.assumptions}


@dataclass
class Surveyor:
    """Surveys the experiments of a workspace; they share what is read from the store."""

    workspace: Workspace
    history: History
    counts: Counts
    parts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Into how many parts, at most, the jobs of a stage are cut."""
    _told: dict[tuple[str, str], str] = field(default_factory=dict)
    """(stage, key) of a job -> the first surveyed experiment that has it."""
    _compared_data: dict[tuple[str, str, str], list[Reason]] = field(default_factory=dict)

    def survey(self, name: str, estimator: Estimator, only_for: str | None = None) -> Survey:
        """Survey an experiment; the scans of its chain must be finished."""
        parts, config = self.workspace.slices(name), self.workspace.config(name)
        published = self.workspace.published(only_for or name).exists()
        clips = self.workspace.assumed_clips.get(name)
        stages = [stage for stage in (_up_to_training() if only_for else STAGES) if stage in parts]
        if clips is not None:
            self.history.assumed[parts["scan"].key] = assumed_columns(clips)
            stages.remove("scan")
        steps: dict[str, Step] = {}
        for stage in stages:
            step = self._step(parts, stage, name, config, steps, estimator, published)
            first = self._told.setdefault((stage, step.key), name)
            if step.runs and first != name:
                same = [Reason("shared", f"same job as in {first}")]
                step = replace(step, why=same, estimate=None, warnings=[], notes=[])
            steps[stage] = step
        base = self.workspace.experiments[name].base
        return Survey(name, base, list(steps.values()), only_for, assumptions(config, clips))

    def _step(
        self,
        parts: Mapping[str, Slice],
        stage: str,
        name: str,
        config: Config,
        steps: Mapping[str, Step],
        estimator: Estimator,
        published: bool,
    ) -> Step:
        part, row = parts[stage], STAGES[stage]
        if published or (not row.publishes and self.history.receipt(stage, part.key)):
            return Step(stage, part.key, UP_TO_DATE, self._done(part, parts), warnings=self._lost(part))
        if row.publishes:
            work = Work(1, 1, row.unit)
            return Step(
                stage, part.key, STALE, work, self._publish(part, name, config, steps), estimator.of(part, work)
            )
        work = self.counts.left(part, parts, cost_of(row))
        state, why = self._explained(part, work, name, config, steps)
        estimate = estimator.of_parts(part, work, work.parts(self.parts.get(stage, 1)))
        notes = [self._batch(name, part)] if row.trains and work.todo else []
        notes += estimator.notes(stage) if work.todo else []
        if estimate.parts > 1:
            most = work.largest(estimate.parts)
            unit = work.unit.removesuffix("s") if most == 1 else work.unit
            notes.append(f"{stage}: {estimate.parts} parts of at most {most:,} {unit}; time if all run at once")
        warnings = estimator.warnings(stage, estimate)
        outlook = cost_of(row).outlook(self.counts, parts)
        notes, warnings = [*notes, *outlook.notes], [*warnings, *outlook.warnings]
        if row.trains:
            warnings += cannot_train_on(config.values, estimator.device)
        return Step(stage, part.key, state, work, why, estimate, warnings, notes)

    def _batch(self, name: str, part: Slice) -> str:
        settings, ranks = read_input(TrainInput, part.config()), self.workspace.experiments[name].ranks
        batches = plan_batches(settings.micro_batch, settings.global_batch, ranks)
        return f"{batches} ({self.workspace.resolver(name).batch_from})"

    def _lost(self, part: Slice) -> list[str]:
        """The warning for a receipt without data: Snakemake only checks the receipt, so nothing would make it again."""
        folder = self.counts.folder(part)
        if STAGES[part.stage].publishes or folder.is_dir() or not self.history.receipt(part.stage, part.key):
            return []
        named = "" if str(self.workspace.store) == "store" else f" --store {shlex.quote(str(self.workspace.store))}"
        repair = f"cogtune store verify {part.key} --repair{named}"
        return [f"{folder} is missing, but it has a receipt; `{repair}` removes it and those of later stages"]

    def _done(self, part: Slice, parts: Mapping[str, Slice]) -> Work:
        """The work of a finished job: one with a receipt, or with a published report that depends on it."""
        row = STAGES[part.stage]
        if row.publishes:
            return Work(0, 1, row.unit)
        if (work := self.counts.done(part)) is not None:
            return work
        return Work(0, self.counts.left(part, parts, cost_of(row)).total, row.unit)

    def _explained(
        self, part: Slice, work: Work, name: str, config: Config, steps: Mapping[str, Step]
    ) -> tuple[str, list[Reason]]:
        if not work.todo and not work.shared:
            text = "cached; only the receipt is missing"
            return CACHED, [Reason("receipt", text)]
        earlier = (self._kin(part) if work.begun else None) or self.history.before(part, name)
        if STAGES[part.stage].trains and work.begun:
            step = f"resumes at step {work.there:,} of {work.total:,}"
            return PARTIAL, [Reason("resume", step)]
        grown = work.begun and earlier is not None and _same_rows(earlier[0], part)
        if work.begun and not grown:
            return PARTIAL, [Reason("resume", f"{work.there:,} of {work.total:,} {work.unit} are finished")]
        reasons = self._compared(part, work, earlier, config, steps)
        if work.shared:
            reasons.append(Reason("shared", f"{work.shared:,} of its {work.unit} are made by another experiment's job"))
        return STALE, reasons

    def _kin(self, part: Slice) -> tuple[dict[str, Any], str, bool] | None:
        """A finished job with the same folder of rows: existing rows are from it, not from an interrupted run."""
        ran = self.history.nearest(part) if STAGES[part.stage].items else []
        return next(
            ((identity, key, True) for key in ran if _same_rows(identity := self.history.slice_file(key), part)), None
        )

    def _compared(
        self,
        part: Slice,
        work: Work,
        earlier: tuple[dict[str, Any], str, bool] | None,
        config: Config,
        steps: Mapping[str, Step],
    ) -> list[Reason]:
        """The differences from an earlier job."""
        if earlier is None:
            return [Reason("never", "never run")]
        before, key, own = earlier
        reasons = differences(before, part.identity, config)
        if not own and len(reasons) > _FEW:
            return [Reason("never", f"never run (closest previous run differs in {len(reasons)} keys)")]
        upstream = changed_upstream(before, part.identity)
        followed = [_upstream(upstream, steps)] if upstream else []
        reasons += followed
        # Changes of the data are listed once, at the first stale stage.
        if before.get("data") != part.identity.get("data") and not any(reason.causes for reason in followed):
            reasons += self._data(part, key)
        if not reasons:
            return [Reason("never", f"its {work.unit} are missing in the store")]
        if own or all(reason.kind in ("upstream", "data") for reason in reasons):
            return reasons
        return [Reason("never", "never run; closest previous run differs in:"), *reasons]

    def _data(self, part: Slice, key: str) -> list[Reason]:
        scanned = self.history.jobs(key).get("scan")
        earlier, scan = scanned.key if scanned else "", part.volatile.jobs["scan"].key
        old, kind = self.history.scanned(earlier), STAGES[part.stage].data or ""
        if old is None:
            return [Reason("data", "the data set changed")]
        if (earlier, scan, kind) not in self._compared_data:
            self._compared_data[earlier, scan, kind] = data_changes(old, self.history.columns(scan), kind)
        return self._compared_data[earlier, scan, kind]

    def _publish(self, part: Slice, name: str, config: Config, steps: Mapping[str, Step]) -> list[Reason]:
        """Why the report must be rewritten: earlier stages, or keys that no result depends on."""
        keys = self.history.published(name)
        before = self.history.slice_file(keys[part.stage]) if keys.get(part.stage) else {}
        if not before:
            return [Reason("never", "never published")]
        made = [stage for stage, step in steps.items() if step.runs and step.work.todo]
        if made:
            return [_upstream(made[-1:], steps)]
        changed = changed_keys(before.get("values") or {}, part.identity["values"], config)
        effective = [reason for reason in changed if not (reason.key or "").startswith("as_written.")]
        reasons = effective or [Reason("publish", "the config files changed, but no value")] if changed else []
        reasons += changed_version(before, part.identity)
        if not reasons:
            reasons = [Reason("publish", f"results/{name} shows another config; the results of this config are cached")]
        return reasons


def _up_to_training() -> list[str]:
    """The stages that a training needs, and the training."""
    names = list(STAGES)
    return names[: next(index for index, name in enumerate(names) if STAGES[name].trains) + 1]


def _same_rows(before: Mapping[str, Any], part: Slice) -> bool:
    """Whether two jobs share a folder of rows, i.e. only their data set differs."""
    current, other = ({k: v for k, v in one.items() if k != "data"} for one in (part.identity, before))
    return STAGES[part.stage].items and current == other


def _upstream(names: list[str], steps: Mapping[str, Step]) -> Reason:
    return Reason("upstream", _because(names, steps), causes=tuple(_roots(names, steps)))


def _because(upstream: list[str], steps: Mapping[str, Step]) -> str:
    """``because train is stale``: the stages that cause the change; ``because latents changed`` if the changed result is
    already in the store."""
    waiting = _roots(upstream, steps)
    if waiting:
        return f"because {_listed(waiting)} {'is' if len(waiting) == 1 else 'are'} stale"
    words = ["the training that it starts from" if name == "load" else name for name in upstream]
    return f"because {_listed(words)} changed"


def _roots(upstream: list[str], steps: Mapping[str, Step]) -> list[str]:
    """The upstream stages that have work to do for a reason of their own."""
    causes: set[str] = set()
    for name in upstream:
        step = steps.get(name)
        if step is None or not step.work.todo:
            continue
        own = [reason for reason in step.why if reason.kind in ("key", "file", "version", "resume")]
        above = [cause for reason in step.why for cause in reason.causes]
        causes.update(above if above and not own else [name])
    return [stage for stage in steps if stage in causes]


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
