"""Path functions only: what to ask of cogtune.plan, and where receipts, slices and logs are."""

import os
import subprocess
import sys
from pathlib import Path

from cogtune.errors import UserError
from cogtune.work.workspace import Workspace
from cogtune.work.machine_limits import refused_here
from cogtune.runtime.directory import hold_directory
from cogtune.runtime.failures import explained


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


@in_one_sentence
def open_workspace():
    """The experiments, each checked now: a bad config ends here with exit code 2, before any job."""
    workspace = Workspace.load("config/config.yaml", config)
    if (
        workspace.demo_data
        and subprocess.run([sys.executable, "demo/make_data.py"]).returncode
    ):
        sys.exit(1)
    for name in workspace.targets:
        workspace.scan_receipts(name)
    return workspace


WORKSPACE = open_workspace()
STORE, RESULTS = str(WORKSPACE.store), str(WORKSPACE.results)


# Before the first job, not for a dry run, nor on a cluster's nodes. Of several onstart sections Snakemake runs the last only.
onstart:
    in_one_sentence(hold_directory)(Path(".cogtune.lock"))
    # Known only now: jobs of another executor may find the GPU that this machine lacks.
    if workflow.local_exec and (refused := refused_here(WORKSPACE)):
        print("\n".join(refused), file=sys.stderr)
        sys.exit(2)


wildcard_constraints:
    key="[0-9a-f]{12}",
    experiment="[A-Za-z0-9_.-]+",


def receipt(stage):
    """The declared output of a stage's jobs."""
    return f"{RESULTS}/.receipts/{stage}-{{key}}.json"


def log_file(stage):
    """One log per job."""
    return f"{RESULTS}/.logs/{stage}-{{key}}.log"


def slice_file(wildcards):
    """The slice that the main process wrote for this job."""
    return f"{STORE}/slices/{wildcards.key}.json"


@in_one_sentence
def run_file(wildcards):
    """What this run tells the job beside its identity: paths, ranks, upstream jobs."""
    return os.path.relpath(WORKSPACE.job(wildcards.key).run)


@in_one_sentence
def upstream(wildcards):
    """Receipts of the jobs that this one stands on, as this run names them."""
    jobs = WORKSPACE.job(wildcards.key).volatile["jobs"]
    return sorted(
        (
            f"{RESULTS}/{name}/.published-{job['key']}"
            if job["stage"] == "report"
            else f"{RESULTS}/.receipts/{job['stage']}-{job['key']}.json"
        )
        for name, job in jobs.items()
    )


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
    """Ends this evaluation until the scans that an experiment stands on are done."""
    for path in WORKSPACE.scan_receipts(name):
        checkpoints.scan.get(key=path.stem.removeprefix("scan-"))
