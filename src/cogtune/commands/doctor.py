"""`cogtune doctor`: check what a run needs of this machine and of the cluster."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from cogtune.commands.options import Subcommands, add_ranks, add_workflow
from cogtune.doctor import devices, disk, profile, slurm, software
from cogtune.doctor.all_reduce import all_reduce_check
from cogtune.doctor.check import Check
from cogtune.errors import UserError
from cogtune.work.workflow_config import workflow_values

_EXAMPLES = """examples:
  cogtune doctor                              this machine and the store of config/config.yaml
  cogtune doctor --ranks 8                    on a GPU node: also an all-reduce over 8 GPUs
  cogtune doctor --profile profiles/slurm     on a login node: what the profile asks, against the cluster
  cogtune doctor --json
Each line is OK, WARN or FAIL; WARN and FAIL have a fix. Exit code 1 if a check failed. See docs/doctor.md."""


def add_to(commands: Subcommands) -> None:
    """The subcommand."""
    text = "check Python, packages, GPUs, the store's disk, and Slurm"
    command = commands.add_parser(
        "doctor", help=text, description=text, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_ranks(command)
    command.add_argument("--profile", type=Path, metavar="DIR", help="Snakemake profile to compare with the cluster")
    command.add_argument("--store", type=Path, metavar="DIR", help="default: store_dir of --workflow")
    command.add_argument("--json", action="store_true", help="print the results as JSON")
    add_workflow(command, "store_dir, ranks")
    command.set_defaults(run_command=run)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Print each check; return 1 if one failed. Raises UserError for wrong usage."""
    if overrides:
        raise UserError(f"doctor takes no overrides; found {' '.join(overrides)} after `--`")
    selected = profile.read_profile(arguments.profile) if arguments.profile else None
    values = workflow_values(arguments.workflow if arguments.workflow.exists() else None, {})
    store, ranks = arguments.store or values.store_dir, arguments.ranks or values.ranks
    done = list[Check]()
    for check in all_checks(selected, store, ranks):
        done.append(check)
        if not arguments.json:
            print(as_text(check), flush=True)
    failed = sum(check.level == "FAIL" for check in done)
    if arguments.json:
        print(json.dumps({"checks": [asdict(check) for check in done], "failed": failed}, indent=2, ensure_ascii=False))
    else:
        warned = sum(check.level == "WARN" for check in done)
        print(f"{len(done)} checks: {failed} failed, {warned} warnings")
    return int(failed > 0)


def all_checks(selected: profile.Profile | None, store: Path, ranks: int) -> Iterator[Check]:
    """Every check, the fast ones of a topic first. A check that breaks is a FAIL, and does not stop the others."""
    on_slurm = selected is not None and selected.executor == "slurm"
    extra = "slurm" if on_slurm else ""
    yield from _guarded("software", lambda: software.software_checks(extra))
    facts = devices.read_torch()
    yield from _guarded("devices", lambda: devices.device_checks(devices.read_driver(), facts))
    if not isinstance(facts, str):
        yield from _guarded("ranks", lambda: [all_reduce_check(ranks, len(facts["devices"]))])
    yield from _guarded("store", lambda: disk.disk_checks(store))
    yield from _guarded("slurm", lambda: _slurm_checks(selected, on_slurm, ranks))


def _slurm_checks(selected: profile.Profile | None, on_slurm: bool, ranks: int) -> Iterator[Check]:
    cluster = slurm.read_slurm()
    yield from slurm.slurm_checks(cluster, wanted=on_slurm)
    if selected is not None and not on_slurm:
        yield Check(
            "profile",
            "executor",
            "OK",
            f"{selected.path}: jobs run by the executor {selected.executor!r}, not by Slurm",
        )
    if isinstance(cluster, str):
        return
    status, no_account = (selected.status_command, selected.no_account) if selected else ("", False)
    yield slurm.accounting_check(cluster, status, no_account, on_slurm)
    if selected is not None and on_slurm:
        yield from profile.profile_checks(selected, cluster, profile.rules_of(Path("workflow")), ranks)


def _guarded(topic: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from checks()
    except Exception as error:  # of a machine in an unexpected state, which is what this command is for
        text = f"this check broke: {type(error).__name__}: {error}"
        yield Check(topic, "check", "FAIL", text, "please report this bug with the whole output")


def as_text(check: Check) -> str:
    """A check as one line, and its fix as another."""
    line = f"{check.level:5} {check.topic:9} {check.name}: {check.text}"
    return f"{line}\n{'':16}fix: {check.fix}" if check.fix else line
