"""Path functions: what to ask of cogtune.work, and where receipts, slices and logs are. Parsing only reads."""

import os
import sys
from pathlib import Path

from cogtune.errors import UserError
from cogtune.runtime.directory import hold_directory
from cogtune.runtime.failures import explained
from cogtune.work.machine_limits import refused_here
from cogtune.work.workspace import Workspace


def in_one_sentence(work):
    """What a user is expected to read ends the workflow here, without Snakemake's account of where it was raised."""

    def inner(*given):
        try:
            with explained():
                return work(*given)
        except UserError as error:
            print(f"cogtune: {error}", file=sys.stderr)
            sys.exit(error.exit_code)

    return inner


DEMO_CLIPS = "data/demo/.made-from"


@in_one_sentence
def open_workspace():
    """The experiments, each checked now: a bad config ends here with exit code 2, before any job.

    Before the demo's clips and weights are made, only what can be told without them is checked.
    """
    workspace = Workspace.load("config/config.yaml", config)
    workspace.writes.held = True
    for name in workspace.targets:
        if workspace.demo_data and not os.path.exists(DEMO_CLIPS):
            workspace.check(name)
        else:
            workspace.scan_receipts(name)
    return workspace


WORKSPACE = open_workspace()
STORE, RESULTS = str(WORKSPACE.store), str(WORKSPACE.results)


# Before the first job, not for a dry run, nor on a cluster's nodes. Of several onstart sections Snakemake runs the last only.
onstart:
    in_one_sentence(hold_directory)(Path(".cogtune.lock"))
    # Known only now: jobs of another executor may find the GPU that this machine lacks.
    if workflow.local_exec and (
        refused := in_one_sentence(refused_here)(WORKSPACE)
    ):
        print("\n".join(refused), file=sys.stderr)
        sys.exit(2)
    in_one_sentence(WORKSPACE.writes.release)()


wildcard_constraints:
    key="[0-9a-f]{12}",
    experiment="[A-Za-z0-9_.-]+",


def receipt(stage):
    """The declared output of a stage's jobs."""
    return f"{RESULTS}/.receipts/{stage}-{{key}}.json"


def log_file(stage):
    """One log per job."""
    return f"{RESULTS}/.logs/{stage}-{{key}}.log"


def job_of(wildcards):
    """The slice of a job. A process that runs a single job finds what the main process wrote for it, and writes nothing."""
    find = WORKSPACE.job if workflow.is_main_process else WORKSPACE.started_job
    return find(wildcards.key)


def slice_file(wildcards):
    """The slice that the main process wrote for this job."""
    return f"{STORE}/slices/{wildcards.key}.json"


@in_one_sentence
def run_file(wildcards):
    """What this run tells the job beside its identity: paths, ranks, upstream jobs."""
    run = os.path.relpath(job_of(wildcards).run)
    # Without onstart (snakemake --no-hooks): the first job that starts.
    if (
        workflow.is_main_process
        and workflow.executor_plugin is not None
        and not workflow.dryrun
    ):
        WORKSPACE.writes.release()
    return run


@in_one_sentence
def upstream(wildcards):
    """Receipts of the jobs that this one stands on, as this run names them."""
    await_scans_for(wildcards.key)
    return [str(path) for path in WORKSPACE.upstream(job_of(wildcards))]


def published(name):
    """The final target of an experiment: known only after its scans, hence a function of their checkpoint."""

    @in_one_sentence
    def target(wildcards):
        await_scans(name)
        return str(WORKSPACE.published(name))

    return target


def compared(name):
    """The report of a sweep: known only after the scans of all its members."""

    @in_one_sentence
    def target(wildcards):
        for member in WORKSPACE.sweeps[name].points:
            await_scans(member)
        return str(WORKSPACE.compared(name))

    return target


def await_scans(name):
    """Ends this evaluation until the scans that an experiment stands on are done, and the demo's clips before them."""
    if WORKSPACE.demo_data:
        checkpoints.demo_clips.get()
    for path in WORKSPACE.scan_receipts(name):
        checkpoints.scan.get(key=path.stem.removeprefix("scan-"))


def await_scans_for(key):
    """The same for a job that was asked for by its receipt: its key may be one that is known only after the scans."""
    if workflow.is_main_process and not WORKSPACE.knows(key):
        for name in WORKSPACE.experiments:
            await_scans(name)
