"""Ranks as tasks of a Slurm step: what srun says about them, and what it is told."""

from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.runtime.slurm import SlurmJob
from cogtune.train.srun import SrunMessages, check_ranks, srun_environment


def job(nodes: int, tasks: int) -> SlurmJob:
    return SlurmJob("12", "RUNNING", nodes, tasks, 0, False, "n[1-2]")


def test_what_srun_says_of_tasks(tmp_path: Path) -> None:
    log = tmp_path / "ranks.log"
    log.write_text("srun: error: n1: task 0: Killed\n")  # of an earlier start
    messages = SrunMessages(log)
    assert messages.read() == {}
    with log.open("a") as stream:
        stream.write(
            "step 1\nsrun: error: n2: task 1: Killed\nsrun: error: n1: tasks 0,2-3: Exited with exit code 1\nsrun: err"
        )
    assert {rank: (end.code, end.host) for rank, end in messages.read().items()} == {
        1: (-9, "n2"), 0: (1, "n1"), 2: (1, "n1"), 3: (1, "n1"),
    }  # fmt: skip
    with log.open("a") as stream:
        stream.write("or: n3: task 4: Out Of Memory\nsrun: error: n3: task 5: Segmentation fault (core dumped)\n")
        stream.write("srun: error: n1: task 1: Terminated\n")
    ends = messages.read()
    assert (ends[4].code, ends[4].out_of_memory) == (-9, True)
    assert ends[5].code == -11
    assert ends[1].code == -9  # the first message counts


@pytest.mark.parametrize(("ranks", "nodes", "tasks"), [(4, 1, 1), (4, 1, 4), (1, 1, 1), (4, 2, 4), (8, 4, 8)])
def test_numbers_that_agree(ranks: int, nodes: int, tasks: int) -> None:
    check_ranks(ranks, job(nodes, tasks))


@pytest.mark.parametrize(("ranks", "nodes", "tasks"), [(2, 1, 4), (4, 2, 2), (1, 2, 2), (4, 2, 8)])
def test_other_numbers_are_refused_with_both(ranks: int, nodes: int, tasks: int) -> None:
    with pytest.raises(UserError, match=rf"ranks: {ranks}, but Slurm job 12 has {tasks} tasks on {nodes} nodes"):
        check_ranks(ranks, job(nodes, tasks))


def test_ranks_that_nodes_cannot_share() -> None:
    with pytest.raises(UserError, match="ranks: 3 cannot be divided by 2"):
        check_ranks(3, job(2, 3))


def test_srun_takes_no_option_from_the_environment() -> None:
    given = {
        "SLURM_JOB_ID": "12", "SLURM_CONF": "/etc/s.conf", "SLURM_NTASKS": "1", "SLURM_MEM_PER_NODE": "1", "SRUN_DEBUG": "1",
        "SBATCH_GRES": "gpu:1", "SLURMD_NODENAME": "n1", "RANK": "7", "PATH": "/bin", "NCCL_SOCKET_IFNAME": "ib0",
    }  # fmt: skip
    kept = {"SLURM_JOB_ID", "SLURM_CONF", "SLURMD_NODENAME", "PATH", "NCCL_SOCKET_IFNAME"}
    assert set(srun_environment(given)) == kept
