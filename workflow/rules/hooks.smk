"""What happens when a run starts and ends. Its results folders are there from the start."""

import atexit
import logging

from cogtune.runtime.stopped_workflow import StopSentence
from cogtune.work.machine_limits import refused_here, unknown_device
from cogtune.work.stages import jobs_of

TARGETS = {}
"""Experiment or sweep that was asked for -> marker of its report, "" before its scan. Snakemake evaluates the inputs of
their rules only."""


def experiments_of(targets):
    """The experiments among targets, and the members of sweeps."""
    return [
        member
        for name in targets
        for member in (
            WORKSPACE.sweeps[name].points if name in WORKSPACE.sweeps else [name]
        )
    ]


def asked_for():
    """The experiments that this run is for: all that can run, if it was asked for files."""
    return experiments_of(TARGETS) or [
        name
        for name in WORKSPACE.targets
        if not files_can_exist(WORKSPACE, name) or WORKSPACE.available(name)
    ]


def open_results(names):
    """Create results/<experiment>/ of experiments that this run makes, with links to the training once its key is known."""
    if WORKSPACE.writes.held or not workflow.is_main_process:
        return []  # no run has started: a dry run writes nothing
    return [
        os.path.relpath(WORKSPACE.open_results(name, files_can_exist(WORKSPACE, name)))
        for name in names
    ]


def show_results():
    """The folders of the results, when a run starts."""
    wanted = experiments_of(
        name for name, marker in TARGETS.items() if not os.path.exists(marker)
    )
    names = [name for name in WORKSPACE.experiments if name in wanted]
    if folders := open_results(names):
        rest = f" and {len(folders) - 3} more" if len(folders) > 4 else ""
        listed = ", ".join(folders[: 3 if rest else 4])
        print(f"results: {listed}{rest}", file=sys.stderr)


# Before the first job, not for a dry run, nor on a cluster's nodes. Of several onstart sections Snakemake runs the last only.
onstart:
    in_one_sentence(hold_directory)(Path(".cogtune.lock"))
    # Known only now: jobs of another executor may find the GPU that this machine lacks.
    if workflow.local_exec:
        names = asked_for()
        known = all(files_can_exist(WORKSPACE, name) for name in names)
        refused = in_one_sentence(refused_here)(WORKSPACE, names, known)
    else:
        refused = in_one_sentence(unknown_device)(WORKSPACE)
    if refused:
        print("\n".join(refused), file=sys.stderr)
        sys.exit(2)
    in_one_sentence(WORKSPACE.start)()
    in_one_sentence(save_started)(WORKSPACE)
    in_one_sentence(show_results)()


# Of several onsuccess sections Snakemake runs the last only.
onsuccess:
    for name, marker in TARGETS.items():
        if workflow.is_main_process and os.path.exists(marker):
            page = os.path.abspath(f"{RESULTS}/{name}/report.html")
            print(f"report: {page}", file=sys.stderr)


UNKNOWN_JOBS = {}
"""Experiment -> number of jobs that this dry run cannot list, because they are known only after a scan."""


def note_unknown_jobs(name):
    """Remember for the end of a dry run that the jobs of an experiment follow a scan that is not done."""
    if workflow.is_main_process and workflow.dryrun:
        UNKNOWN_JOBS[name] = len(jobs_of(WORKSPACE.check(name).values)) - 1


@atexit.register
def show_unknown_jobs():
    """The last line of a dry run that lists the first jobs only."""
    if not UNKNOWN_JOBS:
        return
    line = f"after the scan: about {sum(UNKNOWN_JOBS.values())} more jobs"
    places = [WORKSPACE.experiments[name].place for name in UNKNOWN_JOBS]
    if all(place.startswith("config/config.yaml:") for place in places):
        names = UNKNOWN_JOBS if len(UNKNOWN_JOBS) <= 3 else []  # else a plan of all
        line += f"; `{' '.join(['cogtune plan', *names])}` shows them"
    print(line, file=sys.stderr)


def end_in_one_sentence():
    """After Ctrl-C or SIGTERM the last line on the terminal says how to go on. Snakemake's log file keeps all messages."""
    sentence = StopSentence()
    sys.excepthook = sentence.excepthook
    for handler in logging.getLogger("snakemake.logging").handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(sentence)


if workflow.is_main_process and not IS_MODULE:
    end_in_one_sentence()
