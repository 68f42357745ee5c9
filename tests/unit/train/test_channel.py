"""The stage and ranks on other machines: what they tell each other, and where they meet."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

from cogtune.errors import UserError
from cogtune.train.channel import Channel
from cogtune.train.ends import RankError, verdict
from cogtune.train.engine import RankInfo, with_own_gpu
from cogtune.train.joined import World
from cogtune.train.network import own_address, use_interface

pytestmark = pytest.mark.heavy

WATCHED = """
import sys, time
from cogtune.train.channel import Channel, watch
watch(Channel.join(sys.argv[1], 1), 1, silence=3)
print("ready", flush=True)
time.sleep(60)
"""
ASKED = """
import os, sys, time
from cogtune.train.stop import StopRequest
stop = StopRequest(143, os._exit)
if sys.argv[1] == "deferred":
    stop.defer()
print("ready", flush=True)
for _ in range(600):
    time.sleep(0.1)
    if stop():
        sys.exit(7)
"""


def test_plan_reports_and_ends_pass() -> None:
    stage = Channel.host("localhost")
    first, second = (Channel.join(stage.address, rank) for rank in range(2))
    stage.send_plan({"key": "k"})
    assert first.plan() == second.plan() == {"key": "k"}
    report = first.reporter()
    print(json.dumps({"start": 0}), file=report)
    print("half", end="", file=report)
    assert list(stage.reports()) == ['{"start": 0}']
    print(" a line", file=report)
    assert list(stage.reports()) == ["half a line"]
    assert [end.code for end in stage.ends(2)] == [None, None]
    left = RankError(1, 2.0, "boom", True, "Traceback")
    second.say_end(1, 1, left, "n2")
    assert [(end.code, end.error) for end in stage.ends(2)] == [(None, None), (1, replace(left, time=1.0))]
    first.say_end(0, 1, RankError(0, 1.0, "peer is gone", False, ""), "n1")
    ends = stage.ends(2)
    with pytest.raises(UserError, match="boom"):
        verdict(ends, False, Path("log"))  # it came first, whatever the clock of the other machine says
    assert first.why_aborted() is None
    stage.abort("enough")
    assert first.why_aborted() == "enough"


def test_a_rank_without_a_plan_is_dismissed() -> None:
    stage = Channel.host("localhost")
    stage.dismiss()
    assert Channel.join(stage.address, 1).plan() is None


def test_two_stages_on_one_machine_have_ports_of_their_own() -> None:
    channels = [Channel.host("localhost") for _ in range(3)]
    assert len({channel.address for channel in channels}) == 3


@pytest.mark.parametrize("how", ["abort", "kill", "freeze"])
def test_a_rank_ends_with_its_stage(how: str) -> None:
    """Also if the stage's machine does not answer any more, as after a power cut."""
    host = "from cogtune.train.channel import Channel; import time; c = Channel.host('localhost'); print(c.address, flush=True)"
    wait = "; input(); c.abort('enough'); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", host + wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stage:
        assert stage.stdout is not None
        assert stage.stdin is not None
        try:
            address = stage.stdout.readline().strip()
            rank = subprocess.Popen([sys.executable, "-c", WATCHED, address], stdout=subprocess.PIPE, text=True)
            assert rank.stdout is not None
            assert rank.stdout.readline() == "ready\n"
            if how == "abort":
                print(file=stage.stdin, flush=True)
            else:
                stage.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            assert rank.wait(50) == 1
        finally:
            stage.kill()


def test_a_rank_that_was_suspended_with_its_stage_goes_on() -> None:
    """As by `scontrol suspend`: the time in which nobody ran is no silence. 3 s are allowed here."""
    stage = Channel.host("localhost")
    command = [sys.executable, "-c", WATCHED, stage.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rank:
        try:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "ready\n"
            rank.send_signal(signal.SIGSTOP)
            time.sleep(4.5)
            rank.send_signal(signal.SIGCONT)
            with pytest.raises(subprocess.TimeoutExpired):
                rank.wait(1.5)
        finally:
            rank.kill()


@pytest.mark.parametrize(("mode", "code"), [("at once", 143), ("deferred", 7)])
def test_sigterm_is_answered_at_once_before_the_loop_and_later_in_it(mode: str, code: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", ASKED, mode], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(30) == code


def test_an_unknown_first_machine_is_an_error_with_advice() -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"rank 3 on .* cannot reach the first machine at .*COGTUNE_INTERFACE"):
        Channel.join("no-such-host.invalid:1", 3)
    assert time.monotonic() - started < 60


def test_the_address_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COGTUNE_MASTER_ADDR", "COGTUNE_INTERFACE", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert own_address() == "localhost"
    monkeypatch.setenv("SLURMD_NODENAME", "no-such-host.invalid")
    assert own_address() == "localhost"  # Slurm's name of a node need not resolve
    monkeypatch.setenv("COGTUNE_INTERFACE", "lo")
    assert own_address() == "127.0.0.1"
    monkeypatch.setenv("COGTUNE_MASTER_ADDR", "n1-ib")
    assert own_address() == "n1-ib"
    monkeypatch.delenv("COGTUNE_MASTER_ADDR")
    monkeypatch.setenv("COGTUNE_INTERFACE", "nope0")
    with pytest.raises(
        UserError, match=r"COGTUNE_INTERFACE=nope0: localhost has no such network interface; it has .*lo"
    ):
        own_address()


def test_no_name_that_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COGTUNE_MASTER_ADDR", "COGTUNE_INTERFACE", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    monkeypatch.setattr(socket, "getfqdn", lambda: "no-such-host.invalid")
    with pytest.raises(UserError, match="no name of this machine"):
        own_address()


def test_libraries_use_the_same_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGTUNE_INTERFACE", "lo")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    use_interface()
    assert (os.environ["NCCL_SOCKET_IFNAME"], os.environ["GLOO_SOCKET_IFNAME"]) == ("ib0", "lo")


NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def test_a_launcher_is_known_by_all_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("3", "4", "1", "n1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert World.from_environment() == World(3, 4, 1, "n1", 29500, False, "")
    monkeypatch.setenv("MASTER_PORT", "many")
    with pytest.raises(UserError, match="MASTER_PORT=many"):
        World.from_environment()
    monkeypatch.delenv("LOCAL_RANK")
    assert World.from_environment() is None


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    store = FileStore(str(tmp_path / "all"), 2)
    first, second = RankInfo(0, 2, 0), RankInfo(1, 2, 1)
    assert with_own_gpu(second, 0, str, store) == second  # on the CPU
    # all GPUs are visible
    assert [with_own_gpu(here, 2, lambda i: f"gpu{i}", store).local_rank for here in (first, second)] == [0, 1]
    # Slurm shows each task its own
    store = FileStore(str(tmp_path / "own"), 2)
    assert [with_own_gpu(here, 1, lambda i, r=here.rank: f"gpu{r}", store).local_rank for here in (first, second)] == [
        0,
        0,
    ]
    assert os.environ["LOCAL_RANK"] == "0"
    # one GPU for both
    store = FileStore(str(tmp_path / "one"), 2)
    with_own_gpu(first, 1, lambda i: "gpu", store)
    with pytest.raises(UserError, match=r"ranks 0 and 1 on .* see the same single GPU"):
        with_own_gpu(second, 1, lambda i: "gpu", store)
    with pytest.raises(UserError, match="which shows it 2 GPUs"):
        with_own_gpu(RankInfo(2, 3, 2), 2, str, store)
