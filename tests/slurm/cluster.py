"""A real Slurm on this machine for tests: two nodes, n1 and n2, of 64 CPUs, 64 GB and 2 fake GPUs each; see README.md here."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.workflow.project import REPO, environment

NODES = ("n1", "n2")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "unshare", "nsenter", "setpriv")
ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


class NoSlurmError(Exception):
    """Slurm cannot run on this machine, and why."""


class NoCapabilityError(NoSlurmError):
    """This process lacks a capability, which no package gives it."""


def missing(programs: Sequence[str] = PROGRAMS, packages: str = "slurm-wlm munge util-linux") -> NoSlurmError | None:
    """Why Slurm cannot start here; None if nothing is known to stand against it."""
    if not sys.platform.startswith("linux"):
        return NoSlurmError("Slurm runs on Linux only")
    if absent := [name for name in programs if shutil.which(name, path=_PATH) is None]:
        return NoSlurmError(f"not installed: {', '.join(absent)} (apt-get install {packages})")
    if not Path("/etc/slurm").is_dir():
        return NoSlurmError("no folder /etc/slurm, where the tests mount their config")
    if os.geteuid() != 0:
        return NoCapabilityError("needs root, for namespaces and for daemons that start jobs")
    tried = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, text=True)
    if tried.returncode:
        return NoCapabilityError(f"needs CAP_SYS_ADMIN, for namespaces: {tried.stderr.strip()}")
    return None


@dataclass(frozen=True)
class JobState:
    """What `scontrol show job` says of a job. ``fields``: all of its lines, as name: value."""

    number: int
    state: str
    nodes: str
    restarts: int
    reason: str
    fields: dict[str, str] = field(repr=False)


class Cluster:
    """Starts the daemons in a temporary folder and a mount namespace; `stop` ends them and all jobs."""

    def __init__(self, accounting: bool = False) -> None:
        """``accounting``: with a database, so that `sacct` knows all jobs, and with limits of memory by cgroups."""
        self._temporary = tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")  # short: it holds a Unix socket
        self.folder = Path(self._temporary.name)
        self.folder.chmod(0o755)  # jobs of other users enter it
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.slurm.daemons"]
        self._daemons = subprocess.Popen(
            [*command, str(self.folder), ",".join(NODES), *(["accounting"] if accounting else [])],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=login_environment(),
            text=True,
        )
        assert self._daemons.stdout is not None
        answer = self._daemons.stdout.readline().strip()
        if answer != "ready":
            assert self._daemons.stdin is not None
            self._daemons.stdin.close()
            rest = self._daemons.stdout.read()
            self.stop()
            raise NoSlurmError(f"{answer}\n{rest}")

    def stop(self) -> None:
        assert self._daemons.stdin is not None
        self._daemons.stdin.close()
        self._daemons.wait(timeout=60)
        self._temporary.cleanup()

    def entering(self, command: Sequence[str], cwd: Path | None = None) -> list[str]:
        """The command that runs ``command`` on the login node; the process that it starts keeps its pid."""
        enter = ["nsenter", f"--mount=/proc/{self._daemons.pid}/ns/mnt", "sh", "-c", 'cd "$0" && exec "$@"']
        return [*enter, str(cwd or self.folder), *command]

    def popen(self, command: Sequence[str], cwd: Path | None = None, log: Path | None = None) -> subprocess.Popen[str]:
        """Start a command on the login node, with its output appended to ``log``. It ends with the tests, also killed ones:
        a Snakemake without its Slurm would ask for its jobs for ever."""
        with (log or Path(os.devnull)).open("a") as output:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *self.entering(command, cwd)],
                env=login_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
            )

    def run(
        self, *command: str, cwd: Path | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node to its end."""
        done = subprocess.run(
            self.entering(command, cwd), env=login_environment(), capture_output=True, text=True, timeout=timeout
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        return done

    def snakemake(
        self, root: Path, *arguments: str, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """`profile_command` with ``arguments`` in a project's folder, to its end."""
        return self.run(*profile_command(*arguments), cwd=root, check=check, timeout=timeout)

    def sbatch(self, script: str, *options: str, cwd: Path | None = None) -> int:
        """Submit shell lines; the number of the job."""
        options = ("--parsable", f"--output={self.folder}/log/job-%j.out", *options)
        return int(self.run("sbatch", *options, f"--wrap={script}", cwd=cwd).stdout.split(";")[0])

    def output(self, job: int) -> str:
        """What a job of `sbatch` wrote."""
        return (self.folder / "log" / f"job-{job}.out").read_text()

    def job(self, number: int) -> JobState:
        return parse_job(self.run("scontrol", "show", "job", "--oneliner", str(number)).stdout)

    def jobs(self) -> list[JobState]:
        """All jobs, also those that ended, the oldest first."""
        text = self.run("scontrol", "show", "job", "--oneliner").stdout
        found = [parse_job(line) for line in text.splitlines() if line.startswith("JobId=")]
        return sorted(found, key=lambda job: job.number)

    def wait_for(self, number: int, *states: str, seconds: float = 120) -> JobState:
        """Wait until the job has one of these states. A job that ended in another one fails at once."""
        wanted = frozenset(states) or ENDED
        deadline = time.monotonic() + seconds
        while (job := self.job(number)).state not in wanted:
            assert job.state not in ENDED, f"{job}, expected {' or '.join(sorted(wanted))}"
            assert time.monotonic() < deadline, f"{job}, after {seconds:.0f} s not {' or '.join(sorted(wanted))}"
            time.sleep(0.2)
        return job

    def start_now(self, number: int) -> None:
        """Shorten the two minutes that Slurm lets a requeued job wait.

        A node refuses a job whose credential is of the second in which the job was killed there ("already killed").
        """
        self.wait_for(number, "PENDING", seconds=60)
        time.sleep(3)
        self.run("scontrol", "update", f"JobId={number}", "StartTime=now")

    def cancel_all(self) -> None:
        """Cancel every job and wait until none holds a node."""
        self.run("scancel", "--user=root", check=False)
        wait_until(lambda: not self.run("squeue", "--noheader").stdout.strip(), "an empty queue", 60)

    def processes(self, node: str) -> list[int]:
        """The processes of a node: those with its host name."""
        names = os.readlink(f"/proc/{self._daemon_of(node)}/ns/uts")
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/ns/uts"):
            with suppress(OSError):
                if os.readlink(path) == names:
                    found.append(int(path.parts[2]))
        return found

    def kill_node(self, node: str) -> None:
        """What a power cut does: SIGKILL for everything that runs there."""
        for pid in self.processes(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def revive_node(self, node: str) -> None:
        """Start the node's daemon again and wait until jobs can run there."""
        assert self._daemons.stdin is not None
        self._daemons.stdin.write(f"{node}\n")
        self._daemons.stdin.flush()
        idle = ["sinfo", "--noheader", f"--nodes={node}", "--partition=main", "--states=idle,mixed", "--format=%D"]
        wait_until(lambda: bool(self.run(*idle).stdout.strip()), f"{node} idle", 60)

    def _daemon_of(self, node: str) -> int:
        return int((self.folder / f"slurmd-{node}.pid").read_text())


def profile_command(*arguments: str, profile: str = "slurm") -> list[str]:
    """Snakemake with a shipped profile, for a Slurm without accounting and a training of two ranks."""
    return [
        *(sys.executable, "-m", "snakemake", "--workflow-profile", f"profiles/{profile}"),
        *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3"),
        *("--max-status-checks-per-second", "10"),
        *("--config", "device=A100", "ranks=2", *arguments),
    ]


def parse_job(line: str) -> JobState:
    """A line of `scontrol show job --oneliner`. Values may hold spaces."""
    fields = dict(re.findall(r"(?:^| )([A-Za-z][A-Za-z/:]*)=(.*?)(?= [A-Za-z][A-Za-z/:]*=|$)", line.strip()))
    return JobState(
        int(fields["JobId"]), fields["JobState"], fields["NodeList"], int(fields["Restarts"]), fields["Reason"], fields
    )


def login_environment() -> dict[str, str]:
    """The environment of a user on the login node: outside of any job."""
    kept = {name: value for name, value in environment().items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    return kept | {"PATH": f"{kept['PATH']}:/usr/sbin:/sbin"}


def wait_until(holds: Callable[[], bool], what: str, seconds: float) -> None:
    """Poll until ``holds``; fails with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still no {what}"
        time.sleep(0.2)
