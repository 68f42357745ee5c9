"""Training over several machines gives the bytes of one machine: by torchrun over two loopback addresses, and by srun, for
which a program with srun's variables and messages stands in (tests/slurm has the real one)."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.workflow.project import environment
from tests.workflow.test_train import REPO, SETTINGS, Training, caches, wait_for

__all__ = ["caches"]

FEW = SETTINGS | {
    "args.train_iters": 12, "args.save_interval": 100, "args.eval_interval": 100, "args.keep_best": "false", "args.global_batch_size": 2,
    "deepspeed.train_micro_batch_size_per_gpu": 1,
}  # fmt: skip
JOINED = """
import json, sys
from pathlib import Path
from cogtune.errors import UserError
from cogtune.runtime.stopping import STOPPED
from cogtune.train.joined import World, first_rank, run_joined_ranks
world = World.from_environment()
plan, ranks, log = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), Path(sys.argv[3])
try:
    with first_rank(world):
        done = run_joined_ranks(world, plan, ranks, 1, log, print, lambda: None)
except UserError as error:
    sys.exit(f"refused: {error}")
sys.exit(0 if done else STOPPED)
"""
BY_SRUN = """
import json, sys
from pathlib import Path
from cogtune.errors import UserError
from cogtune.runtime.slurm import SlurmJob
from cogtune.runtime.stopping import STOPPED
from cogtune.train.srun import run_ranks_by_srun
plan, ranks, log = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), Path(sys.argv[3])
job = SlurmJob("12", "RUNNING", 2, ranks, 0, False, "n[1-2]")
try:
    done = run_ranks_by_srun(plan, ranks, 1, job, log, print, lambda: None)
except UserError as error:
    sys.exit(f"refused: {error}")
sys.exit(0 if done else STOPPED)
"""
SRUN = """#!{python}
import os, signal, subprocess, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
ranks, command = int(given["ntasks"]), sys.argv[sys.argv.index({python!r}):]
tasks = []
for rank in range(ranks):
    told = {{"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NTASKS": str(ranks), "SLURM_STEP_ID": "1"}}
    tasks.append(subprocess.Popen(command, env=os.environ | told))
signal.signal(signal.SIGTERM, lambda number, frame: [task.send_signal(number) for task in tasks])
open({pids!r}, "w").write(" ".join(str(task.pid) for task in tasks))
running = dict(enumerate(tasks))
while running:
    for rank, task in list(running.items()):
        if task.poll() is not None:
            running.pop(rank)
            end = "Killed" if task.returncode == -9 else f"Exited with exit code {{task.returncode}}"
            if task.returncode:
                print(f"srun: error: n{{rank + 1}}: task {{rank}}: {{end}}", file=sys.stderr, flush=True)
    time.sleep(0.1)
sys.exit(max(abs(task.returncode) for task in tasks))
"""


@dataclass
class BySrun(Training):
    """The same training whose ranks a program named srun starts."""

    def start(self) -> subprocess.Popen[str]:
        self.folder.mkdir(exist_ok=True)
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "srun").write_text(SRUN.format(python=sys.executable, pids=str(self.folder / "pids")))
        (programs / "srun").chmod(0o755)
        plan = self.folder.parent / f"{self.folder.name}.json"
        plan.write_text(json.dumps(self.plan()))
        command = [sys.executable, "-c", BY_SRUN, str(plan), str(self.ranks), str(self.folder / "ranks.log")]
        values = environment() | {"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_ID": "12", "COGTUNE_MASTER_ADDR": "127.0.0.1"}
        values["PATH"] = f"{programs}{os.pathsep}{values['PATH']}"
        with (self.folder / "told.txt").open("a") as told:
            return subprocess.Popen(command, env=values, cwd=REPO, stdout=told, stderr=subprocess.PIPE, text=True)

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "pids").read_text().split()]


@pytest.fixture(scope="module")
def on_one_machine(caches: Path) -> Training:
    training = Training(caches / "one-machine", changes=FEW)
    training.finish()
    return training


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(
    training: Training, launcher: str, machines: list[list[str]], values: Mapping[str, str]
) -> tuple[list[int], str]:
    """Exit codes of a launcher's module on each of ``machines``, which are its options, and what it said."""
    training.folder.mkdir(exist_ok=True)
    plan = training.folder.parent / f"{training.folder.name}.json"
    plan.write_text(json.dumps(training.plan()))
    script = training.folder / "joined.py"
    script.write_text(f"#!{sys.executable}\n{JOINED}")
    script.chmod(0o755)
    words = [str(script), str(plan), str(training.ranks), str(training.folder / "ranks.log")]
    settings = environment() | {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"} | dict(values)
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(
            [sys.executable, "-m", launcher, *options, *words],
            env=settings,
            cwd=REPO,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for options in machines
    ]
    try:
        said = "".join(process.communicate(timeout=240)[1] for process in started)
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said


def torchrun(training: Training, machines: list[list[str]]) -> tuple[list[int], str]:
    return launch(training, "torch.distributed.run", [[*options, "--no-python"] for options in machines], {})


def test_torchrun_over_two_addresses_gives_the_same_bytes(on_one_machine: Training, caches: Path) -> None:
    training = Training(caches / "torchrun", changes=FEW)
    meet = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    codes, said = torchrun(training, [[*meet, f"--node-rank={n}", f"--local-addr=127.0.0.{n + 1}"] for n in range(2)])
    assert codes == [0, 0], said
    assert training.rows() == on_one_machine.rows()
    assert training.result() == on_one_machine.result()


def test_deepspeeds_launcher_gives_the_same_bytes(on_one_machine: Training, caches: Path) -> None:
    """Its part on each of two machines, as `deepspeed --hostfile` starts it by ssh. It hosts no store: the first rank does."""
    hosts = base64.urlsafe_b64encode(json.dumps({"127.0.0.1": [0], "127.0.0.2": [0]}).encode()).decode()
    meet = [f"--world_info={hosts}", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    machines = [[*meet, f"--node_rank={n}", "--no_local_rank", "--no_python"] for n in range(2)]
    training = Training(caches / "deepspeed", changes=FEW)
    codes, said = launch(training, "deepspeed.launcher.launch", machines, {"DS_ACCELERATOR": "cpu"})
    assert codes == [0, 0], said
    assert training.rows() == on_one_machine.rows()
    assert training.result() == on_one_machine.result()


def test_torchrun_with_another_number_of_ranks_is_refused(caches: Path) -> None:
    codes, said = torchrun(
        Training(caches / "mismatch", ranks=4, changes=FEW), [["--standalone", "--nproc-per-node=2"]]
    )
    assert codes == [1]
    assert "refused: ranks: 4, but the launcher started 2 processes" in said


def test_srun_gives_the_same_bytes_after_a_stop(on_one_machine: Training, caches: Path) -> None:
    training = BySrun(caches / "srun", changes=FEW)
    assert training.interrupt(signal.SIGTERM, at_step=2) == 143
    stopped_at = len(training.losses())
    assert 2 <= stopped_at < 12
    training.finish()
    assert f"resuming after step {stopped_at} " in training.log()
    assert training.rows() == on_one_machine.rows()
    assert training.result() == on_one_machine.result()


def test_the_killed_task_is_named_and_none_is_left(caches: Path) -> None:
    training = BySrun(caches / "task-killed", changes=FEW | {"args.train_iters": 10000})
    process = training.start()
    wait_for(lambda: len(training.rows()) >= 2 or process.poll() is not None, seconds=120)
    pids = training.pids()
    os.kill(pids[1], signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1, said
    assert "refused: training did not finish: rank 1 on n2 was killed by SIGKILL" in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_tasks_end_with_the_process_that_started_srun(caches: Path) -> None:
    training = BySrun(caches / "stage-killed", changes=FEW | {"args.train_iters": 10000})
    process = training.start()
    wait_for(lambda: len(training.rows()) >= 2 or process.poll() is not None, seconds=120)
    pids = training.pids()
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds=30)
