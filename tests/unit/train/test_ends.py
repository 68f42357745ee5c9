"""The message names the rank that ended the training, not one that failed because its peer was gone."""

import signal
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.train.ends import RankEnd, RankError, patience, verdict

LOG = Path("store/train/k/ranks.log")
RESET = "Connection closed by peer [10.0.0.2]"


def error(rank: int, time: float, message: str, expected: bool = False) -> RankEnd:
    return RankEnd(rank, 1, RankError(rank, time, message, expected, "Traceback"))


def killed(rank: int, number: int = signal.SIGKILL, memory: bool = False) -> RankEnd:
    return RankEnd(rank, -number, out_of_memory=memory, host="n2")


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_done_and_stopped() -> None:
    assert verdict([RankEnd(0, 0), RankEnd(1, 0)], False, LOG)
    assert not verdict([RankEnd(0, 143), RankEnd(1, 143)], False, LOG)
    assert not verdict([RankEnd(0, 143), error(1, 1.0, RESET)], False, LOG)
    assert not verdict([RankEnd(0, -signal.SIGTERM), RankEnd(1, None)], False, LOG)
    assert not verdict([killed(0), error(1, 1.0, RESET)], True, LOG)


@pytest.mark.parametrize("neighbour", [error(0, 1.0, RESET), error(0, 1.0, RESET, expected=True), RankEnd(0, None)])
def test_a_killed_rank_is_named_before_its_neighbours(neighbour: RankEnd) -> None:
    with pytest.raises(UserError, match="rank 1 on n2 was killed by SIGKILL; the likely cause is that memory ran out"):
        verdict([neighbour, killed(1)], False, LOG)


def test_certain_lack_of_memory() -> None:
    with pytest.raises(UserError, match="rank 1 on n2 was killed by SIGKILL; it was out of memory: reduce"):
        verdict([error(0, 1.0, RESET), killed(1, memory=True)], False, LOG)


def test_a_crash_does_not_speak_of_memory() -> None:
    with pytest.raises(UserError) as caught:
        verdict([error(0, 1.0, RESET), killed(1, signal.SIGSEGV)], False, LOG)
    assert "rank 1 on n2 was killed by SIGSEGV" in str(caught.value)
    assert "memory" not in str(caught.value)


def test_the_first_error_is_the_cause() -> None:
    with pytest.raises(UserError, match=r"^disk full$"):
        verdict([error(0, 2.0, RESET), error(1, 1.0, "disk full", expected=True)], False, LOG)
    with pytest.raises(RuntimeError, match="rank 1 of training failed: boom"):
        verdict([error(0, 2.0, RESET), error(1, 1.0, "boom")], False, LOG)
    with pytest.raises(RuntimeError, match="rank 1 of training failed: boom"):
        verdict([killed(0, signal.SIGABRT), error(1, 1.0, "boom")], False, LOG)  # NCCL aborts a rank whose peer failed


def test_ranks_that_say_nothing() -> None:
    with pytest.raises(UserError, match="exit codes rank 1: 3"):
        verdict([RankEnd(0, 0), RankEnd(1, 3)], False, LOG)


def test_patience() -> None:
    assert patience([None, 1], 5.0) == patience([143, -9], 5.0) == 5.0
    assert patience([None, 143], 5.0) == patience([None, 0], 5.0) == 60.0
