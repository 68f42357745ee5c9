"""Runs the daemons of a Slurm for tests: `python -m tests.slurm.daemons FOLDER NODES [accounting]`, in a mount namespace
of its own.

Prints "ready" when all nodes are idle, or one line with the reason why not. Ends everything that it started, with all
jobs, when its standard input closes: also when the process that started it was killed.
"""

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GPUS = 2
"""Fake GPUs of a node. Slurm hands out a character device, or a link to one, by the number at the end of its name."""
START_SECONDS = 30
_PR_SET_CHILD_SUBREAPER = 36

SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,defer_batch
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
SlurmdTimeout=8
SlurmctldTimeout=30
InactiveLimit=0
MinJobAge=3600
ReturnToService=2
GresTypes=gpu
"""
WITHOUT_ACCOUNTING = """\
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
"""
WITH_ACCOUNTING = """\
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
"""
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
CGROUPS = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
DbdHost=localhost
DbdPort={port}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
StorageLoc=slurm
"""
PARTITIONS = """\
PartitionName=main Nodes={nodes} Default=YES State=UP MaxTime=INFINITE PriorityTier=10
PartitionName=cpu Nodes={nodes} State=UP MaxTime=INFINITE PriorityTier=10
PartitionName=gpu Nodes={nodes} State=UP MaxTime=INFINITE PriorityTier=10
PartitionName=urgent Nodes={nodes} State=UP MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF
PartitionName=spot Nodes={nodes} State=UP MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
"""
NODE = (
    "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=64000 Gres=gpu:{gpus}\n"
)


def main(folder: Path, nodes: list[str], accounting: bool) -> None:
    # What a daemon or a job leaves behind becomes a child of this process, and not of init.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of pytest: it closes the input when its tests are done
    signal.signal(
        signal.SIGTERM, lambda number, frame: None
    )  # of `timeout`, too; not SIG_IGN, which jobs would inherit
    try:
        database, slurmdbd = _free_ports(2)
        _write_config(folder, nodes, slurmdbd if accounting else None)
        _mount(folder)
        _start_munged(folder)
        if accounting:
            _start_accounting(folder, database, slurmdbd)
        _start(folder, nodes)
        print(_wait_until_idle(folder, len(nodes)), flush=True)
        _reap_until_input_ends(folder)
    finally:
        end_descendants(os.getpid())
        if accounting:
            _remove_cgroups(nodes)


def limits_memory() -> bool:
    """Whether Slurm can limit the memory of jobs here: with version 2 of cgroups it needs systemd."""
    return os.access(MEMORY_CGROUPS / "cgroup.procs", os.W_OK)


def _remove_cgroups(nodes: list[str]) -> None:
    """What slurmd leaves. A cgroup with processes is not removed."""
    for node in nodes:
        for folder, _, _ in os.walk(MEMORY_CGROUPS / f"slurm_{node}", topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


def _write_config(folder: Path, nodes: list[str], slurmdbd: int | None) -> None:
    ports = _free_ports(len(nodes) + 1)
    for name in ("etc/slurm", "state", "log", "gpus"):
        (folder / name).mkdir(parents=True)
    text = SLURM_CONF.format(folder=folder, port=ports[0])
    text += f"TaskPlugin=task/{'cgroup' if slurmdbd and limits_memory() else 'none'}\n"
    text += WITH_ACCOUNTING.format(folder=folder, port=slurmdbd) if slurmdbd else WITHOUT_ACCOUNTING
    text += "".join(NODE.format(name=n, port=port, gpus=GPUS) for n, port in zip(nodes, ports[1:], strict=True))
    (folder / "etc/slurm/slurm.conf").write_text(text + PARTITIONS.format(nodes=",".join(nodes)))
    lines: list[str] = []
    for node in nodes:
        for number in range(GPUS):
            (folder / "gpus" / f"{node}-nvidia{number}").symlink_to("/dev/null")
        lines.append(f"NodeName={node} Name=gpu File={folder}/gpus/{node}-nvidia[0-{GPUS - 1}]\n")
    (folder / "etc/slurm/gres.conf").write_text("".join(lines))
    # Newer versions ask for cgroups even if no plugin uses them; this one does not know the value.
    version = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True).stdout.split()[-1]
    if slurmdbd and limits_memory():
        (folder / "etc/slurm/cgroup.conf").write_text(CGROUPS)
    elif tuple(map(int, version.split(".")[:2])) >= (23, 11):
        (folder / "etc/slurm/cgroup.conf").write_text("CgroupPlugin=disabled\n")
    known = Path("/etc/hosts").read_text()
    (folder / "etc/hosts").write_text(known + "".join(f"127.0.0.1 {node}\n" for node in nodes))
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _mount(folder: Path) -> None:
    """Put the config at its usual place, for the processes of this namespace only.

    SLURM_CONF would not do: executors of Snakemake remove SLURM_* from the environment of a job.
    """
    if os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{os.getppid()}/ns/mnt"):
        raise SystemExit("this process is not in a mount namespace of its own; start it by `unshare --mount`")
    for name in ("slurm", "hosts"):
        subprocess.run(["mount", "--bind", folder / "etc" / name, f"/etc/{name}"], check=True)


def _start_munged(folder: Path) -> None:
    munged = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in ("pid-file", "log-file", "seed-file")]
    _daemon(
        folder, "munged", ["munged", "-F", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket", *munged]
    )
    while not (folder / "munge.socket").exists():
        time.sleep(0.05)


def _start_accounting(folder: Path, database: int, port: int) -> None:
    """A database that anybody on this machine may use, and slurmdbd."""
    data, socket_path = folder / "database", folder / "database.socket"
    install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db"]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options = ["--no-defaults", "--user=root", f"--datadir={data}", f"--socket={socket_path}", "--skip-grant-tables"]
    _daemon(folder, "mariadbd", ["mariadbd", *options, "--bind-address=127.0.0.1", f"--port={database}"])
    conf = folder / "etc/slurm/slurmdbd.conf"
    conf.touch(mode=0o600)
    conf.write_text(SLURMDBD_CONF.format(folder=folder, port=port, database=database))
    _wait_for_port(database)
    _daemon(folder, "slurmdbd", ["slurmdbd", "-D"])
    _wait_for_port(port)
    subprocess.run(["sacctmgr", "--immediate", "add", "cluster", "test"], check=True, stdout=subprocess.DEVNULL)


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing listens on port {port} after {START_SECONDS} s")
        time.sleep(0.1)


def _start(folder: Path, nodes: list[str]) -> None:
    _daemon(folder, "slurmctld", ["slurmctld", "-D"])
    for node in nodes:
        start_node(folder, node)


def start_node(folder: Path, node: str) -> None:
    """A node with a host name of its own: it tells "same host" from "other host", and is where ranks meet."""
    _daemon(folder, node, ["unshare", "--uts", "sh", "-c", f"hostname {node} && exec slurmd -D -N {node}"])


def _daemon(folder: Path, name: str, command: list[str]) -> None:
    with (folder / "log" / f"{name}.out").open("a") as output:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/")


def _wait_until_idle(folder: Path, count: int) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        idle = ["sinfo", "--noheader", "--partition=main", "--states=idle", "--format=%D"]
        if subprocess.run(idle, capture_output=True, text=True).stdout.strip() == str(count):
            return "ready"
        time.sleep(0.2)
    ends = [f"{path.name}: {lines[-1]}" for path in sorted((folder / "log").iterdir()) if (lines := _lines(path))]
    return f"Slurm did not start within {START_SECONDS} s; last lines of its logs: " + "; ".join(ends)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]


def _reap_until_input_ends(folder: Path) -> None:
    """Start a node again for each line of standard input that names one."""
    while True:
        if select.select([0], [], [], 0.1)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            start_node(folder, line.strip())
        _reap()


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def end_descendants(pid: int) -> None:
    """SIGTERM for all descendants of this process, then SIGKILL, until none is left."""
    deadline = time.monotonic() + 5
    while alive := _descendants(pid):
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for child in alive:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        _reap()
        time.sleep(0.1)


def _descendants(pid: int) -> list[int]:
    """All descendants of a process, the deepest last."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    result = list(parents.get(pid, []))
    for child in result:
        result += parents.get(child, [])
    return result


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:] == ["accounting"])
