"""Path functions: what to ask of cogtune.work, and where receipts, slices and logs are. Parsing only reads."""

import functools
import os
import sys
from pathlib import Path

from cogtune.errors import UserError
from cogtune.plan.requests import Requests
from cogtune.runtime.allocation import granted_cores, granted_gpus
from cogtune.runtime.directory import hold_directory
from cogtune.runtime.failures import explained
from cogtune.runtime.submitted_jobs import await_submitted_jobs
from cogtune.work.demo_data import needs_demo_data
from cogtune.work.parts import Part, check_scatter, read_part
from cogtune.work.stages import STAGES, SWEEP
from cogtune.work.started import load_started, save_started
from cogtune.work.workspace import Workspace


def in_one_sentence(work):
    """What a user is expected to read ends the workflow here, without Snakemake's account of where it was raised."""

    @functools.wraps(
        work
    )  # Snakemake reads from the signature what a function wants to be given
    def inner(*given, **named):
        try:
            with explained():
                return work(*given, **named)
        except UserError as error:
            print(f"cogtune: {error}", file=sys.stderr)
            sys.exit(error.exit_code)

    return inner


DEMO_CLIPS = "data/demo/.made-from"
DEMO_SOURCES = [
    "demo/make_data.py",
    "demo/clips.py",
    "demo/footage.py",
    "demo/assets/vae.pt",
]


NEEDS_DEMO = {}
"""Experiment -> whether it names files of the demo."""


def files_can_exist(workspace, name):
    """Whether the files that an experiment names can be there: the demo's are made by a job, of the files in demo/."""
    if not workspace.demo_data or demo_is_made():
        return True
    if name not in NEEDS_DEMO:
        NEEDS_DEMO[name] = needs_demo_data(workspace, [name])
    return not NEEDS_DEMO[name]


def demo_is_made():
    """Whether the demo's clips and weights are there, and up to date."""
    if not os.path.exists(DEMO_CLIPS):
        return False
    made = os.path.getmtime(DEMO_CLIPS)
    return all(os.path.getmtime(path) <= made for path in DEMO_SOURCES)


@in_one_sentence
def open_workspace():
    """The experiments, each checked now: a bad config ends here with exit code 2, before any job.

    Before the demo's clips and weights are made, only what can be told without them is checked.
    """
    workspace = Workspace.load("config/config.yaml", config)
    workspace.writes.held = True
    for name in workspace.targets:
        if files_can_exist(workspace, name):
            # What lacks files is refused when it is asked for: another experiment may be.
            workspace.available(name)
        else:
            workspace.check(name)
    return workspace


@in_one_sentence
def started_workspace():
    """Store and results of the run that the main process started. A job of it looks at no experiment: none has a rule."""
    jobs = load_started()
    return jobs, Workspace(jobs.store, jobs.results, {})


IS_MODULE = not workflow.modifier.is_main_snakefile()
# A module's jobs may include some of the project's own, whose inputs name experiments: these look at the configs again.
if workflow.is_main_process or IS_MODULE:
    STARTED, WORKSPACE = None, open_workspace()
else:
    STARTED, WORKSPACE = started_workspace()
REQUESTS = Requests(WORKSPACE)
STORE, RESULTS = str(WORKSPACE.store), str(WORKSPACE.results)
# Not the scattergather directive: its names would be shared with a project that uses this workflow as a module, where
# `sample` may be another process, and Snakemake ignores a --set-scatter of an unknown name.
SCATTER = workflow.resource_settings.overwrite_scatter
if not IS_MODULE:
    in_one_sentence(check_scatter)("--set-scatter", SCATTER)


wildcard_constraints:
    key="[0-9a-f]{12}",
    experiment="[A-Za-z0-9_.-]+",
    part="[1-9][0-9]*-of-[1-9][0-9]*",


def receipt(stage):
    """The declared output of a stage's jobs."""
    return f"{RESULTS}/.receipts/{stage}-{{key}}.json"


def part_receipt(stage):
    """The declared output of the parts of a stage's jobs. The stage's own job removes it when all rows are made."""
    return f"{RESULTS}/.receipts/parts/{stage}-{{key}}.{{part}}.json"


def part_log_file(stage):
    """One log per part."""
    return f"{RESULTS}/.logs/parts/{stage}-{{key}}.{{part}}.log"


def part_benchmark_file(stage):
    """The same as for a job (see `benchmark_file`)."""
    return f"{RESULTS}/.benchmarks/parts/{stage}-{{key}}.{{part}}.tsv"


def log_file(stage):
    """One log per job."""
    return f"{RESULTS}/.logs/{stage}-{{key}}.log"


def job_of(wildcards):
    """The slice of a job. A process that runs a single job finds what the main process wrote for it, and writes nothing."""
    if STARTED is not None:
        return STARTED.job(wildcards.key)
    find = WORKSPACE.job if workflow.is_main_process else WORKSPACE.started_job
    return find(wildcards.key)


def benchmark_file(stage):
    """What Snakemake measures of a job: seconds, memory, CPU and disk use."""
    return f"{RESULTS}/.benchmarks/{stage}-{{key}}.tsv"


def all_cores(wildcards):
    """Threads of a stage that uses what there is: the cores of this machine; on a cluster, `resources.threads`."""
    if not workflow.is_main_process:
        return granted_cores()
    if workflow.executor_plugin is not None and not workflow.local_exec:
        return (
            WORKSPACE.resources.threads
        )  # --cores says what is here, not what a node has
    return workflow.resource_settings.cores or WORKSPACE.resources.threads


def only_gathers(stage):
    """Whether parts make all rows of a stage, as `--set-scatter STAGE=N` says. Its own job then only finds them."""
    return SCATTER.get(stage, 1) > 1


def part_receipts(stage):
    """Receipts of the parts of a job: at most as many parts as rows are missing, so none if all exist."""

    @in_one_sentence
    def receipts(wildcards):
        # A process that runs a single job is started when its parts are done.
        if not only_gathers(stage) or not workflow.is_main_process:
            return []
        await_scans_for(wildcards.key)
        count = REQUESTS.parts(wildcards.key, stage, SCATTER[stage])
        parts = [Part(number, count) for number in range(1, count + 1)]
        return [
            part_receipt(stage).format(key=wildcards.key, part=part) for part in parts
        ]

    return receipts


def gather_cores(stage):
    """Threads of a job that may be cut into parts: one if parts do its work."""
    return 1 if only_gathers(stage) else all_cores


def part_cores(wildcards):
    """Threads of a part: on one machine, the parts share its cores."""
    cores = all_cores(wildcards)
    if workflow.is_main_process and workflow.local_exec:
        return max(1, cores // read_part(wildcards.part).count)
    return cores


def needs(name, stage):
    """A resource of a job, or of one part of it, from the plan's estimate; more for each further attempt
    (`snakemake --retries`)."""

    def request(wildcards):
        if part := wildcards.get("part"):
            return REQUESTS.of(wildcards.key, stage, read_part(part).count)
        if only_gathers(stage):
            return REQUESTS.of_gather(stage)
        return REQUESTS.of(wildcards.key, stage)

    return resource(name, request)


def resource(name, request):
    """The function that Snakemake asks for a resource; `request(wildcards)` estimates it."""

    @in_one_sentence
    def amount(wildcards, attempt):
        # A process that runs a single job was given its resources by the scheduler; it estimates nothing.
        if not workflow.is_main_process:
            return granted_gpus() if name == "gpu" else 0
        given = request(wildcards)
        return getattr(given, name) * (attempt if name in ("mem_mb", "runtime") else 1)

    return amount


def slice_file(wildcards):
    """The slice that the main process wrote for this job."""
    return f"{STORE}/slices/{wildcards.key}.json"


@in_one_sentence
def run_file(wildcards):
    """What this run tells the job beside its identity: paths, ranks, upstream jobs."""
    await_scans_for(wildcards.key)
    return known_run_file(wildcards)


@in_one_sentence
def known_run_file(wildcards):
    """The same for a job that waits for no scan."""
    if starts_without_hook():
        first = WORKSPACE.writes.held
        WORKSPACE.start()
        if first:
            show_results()
    job = job_of(wildcards)
    if workflow.is_main_process and not WORKSPACE.writes.held:
        save_started(WORKSPACE)
    return os.path.relpath(job.run)


def starts_without_hook():
    """Whether this process starts jobs and Snakemake leaves out onstart: for `--no-hooks`, and for a module's own."""
    if (
        not workflow.is_main_process
        or workflow.executor_plugin is None
        or workflow.dryrun
    ):
        return False
    return IS_MODULE or workflow.execution_settings.no_hooks


@functools.cache
@in_one_sentence
def await_earlier_jobs():
    """Before Snakemake looks for what is done: jobs of a main process that was killed run on, and hold their GPUs."""
    starts_jobs = workflow.executor_plugin is not None and not workflow.dryrun
    if workflow.is_main_process and starts_jobs and not workflow.local_exec:
        hold_directory(Path(".cogtune.lock"))
        await_submitted_jobs(Path.cwd())


@in_one_sentence
def upstream(wildcards):
    """Receipts of the jobs that this one stands on, as this run names them."""
    await_earlier_jobs()
    await_scans_for(wildcards.key)
    receipts = (STARTED or WORKSPACE).upstream(job_of(wildcards))
    if workflow.dag_settings.until or workflow.dag_settings.omit_from:
        # A finished checkpoint among the jobs makes Snakemake 9 work out anew what has to run, and it then finds nothing
        # to do for a stage that `--until` names, or before one that `--omit-from` names.
        receipts = [
            path
            for path in receipts
            if not (path.name.startswith("scan-") and path.exists())
        ]
    return [str(path) for path in receipts]


def published(name):
    """The final target of an experiment: known only after its scans, hence a function of their checkpoint."""

    @in_one_sentence
    def target(wildcards):
        TARGETS.setdefault(name, "")
        await_earlier_jobs()
        await_scans(name)
        TARGETS[name] = str(WORKSPACE.published(name))
        open_results([name])
        return TARGETS[name]

    return target


def compared(name):
    """The report of a sweep: known only after the scans of all its members."""

    @in_one_sentence
    def target(wildcards):
        TARGETS.setdefault(name, "")
        await_earlier_jobs()
        for member in WORKSPACE.sweeps[name].points:
            await_scans(member)
        TARGETS[name] = str(WORKSPACE.compared(name))
        open_results(WORKSPACE.sweeps[name].points)
        return TARGETS[name]

    return target


def await_scans(name):
    """Ends this evaluation until the scans that an experiment stands on are done, and the demo's clips before them.

    Where they are done no checkpoint is asked, so that Snakemake knows all jobs when it starts: its `--until` looks for
    jobs before it evaluates checkpoints.
    """
    refuse_forced_stages()
    refuse_selected_stages(name)
    if not files_can_exist(WORKSPACE, name):
        note_unknown_jobs(name)
        checkpoints.demo_clips.get()
    for path in WORKSPACE.scan_receipts(name):
        if not path.exists():
            note_unknown_jobs(name)
            checkpoints.scan.get(key=path.stem.removeprefix("scan-"))


def await_scans_for(key):
    """The same for a job that was asked for by its receipt: its key may be one that is known only after the scans."""
    if not workflow.is_main_process:
        return
    refuse_forced_stages()
    if not WORKSPACE.knows(key):
        for name in WORKSPACE.experiments:
            if not files_can_exist(WORKSPACE, name) or WORKSPACE.available(name):
                await_scans(name)
