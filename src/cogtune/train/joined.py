"""Trains with ranks that another launcher started: torchrun, or DeepSpeed's with a hostfile.

The launcher runs `cogtune train …` once for each rank. The first one runs the stage, and starts its own rank as a process;
the others become ranks, which wait for its plan.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from cogtune.errors import UserError
from cogtune.train import channel as channels
from cogtune.train.channel import Channel
from cogtune.train.ends import MemoryKills, RankEnd, outcome
from cogtune.train.follow import WORKER, Follower, threads_of_rank
from cogtune.train.launch import announcing, forwarding_stops


@dataclass(frozen=True)
class World:
    """What a launcher tells each process that it starts: its rank, and where the first one is."""

    rank: int
    ranks: int
    local_rank: int
    host: str
    port: int
    hosted: bool
    """Whether the launcher hosts the store at ``host``:``port`` (torchrun), or the first rank has to."""
    attempt: str

    @classmethod
    def from_environment(cls) -> "World | None":
        """None if no launcher started this process."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        values = [os.environ.get(name) for name in names]
        if not all(values):
            return None
        try:
            rank, ranks, local_rank, port = (int(values[i] or "") for i in (0, 1, 2, 4))
        except ValueError:
            settings = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
            raise UserError(
                f"expected numbers in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_PORT; found {settings}"
            ) from None
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
        return cls(rank, ranks, local_rank, values[3] or "", port, hosted, attempt)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def become_worker(self) -> None:
        """Replace this process, which is not the first rank, by a worker that waits for the plan of the first."""
        os.execve(WORKER[0], WORKER, os.environ | self.for_worker())

    def for_worker(self) -> dict[str, str]:
        """Environment variables of a rank."""
        return {channels.ADDRESS: self.address, channels.PREFIX: self.attempt}


@contextmanager
def first_rank(world: World | None) -> Iterator[None]:
    """In the first rank's process of ``world``, keep the store while the block runs the stage, then let ranks end that
    still wait for a plan. A process of another rank becomes a worker and does not return. No effect without a launcher."""
    if world is None:
        yield
        return
    if world.rank > 0:
        world.become_worker()
    server = None if world.hosted else TCPStore("localhost", world.port, is_master=True, wait_for_workers=False)
    channel = Channel.join(world.address, 0, world.attempt)
    try:
        yield
    except BaseException as error:
        with suppress(RuntimeError):  # the launcher is gone
            channel.abort(f"the first rank ended: {error}")
        raise
    finally:
        with suppress(RuntimeError):
            channel.dismiss()
        del server


def run_joined_ranks(
    world: World,
    plan: dict[str, Any],
    ranks: int,
    threads: int,
    log: Path,
    on_line: Callable[[str], None],
    on_poll: Callable[[], None],
) -> bool:
    """`launch.run_ranks` with the ranks of ``world``. Raises UserError if the launcher started another number."""
    if ranks != world.ranks:
        raise UserError(
            f"ranks: {ranks}, but the launcher started {world.ranks} processes; both must be equal (--ranks {world.ranks}, "
            f"or ranks in config/config.yaml)"
        )
    memory, channel = MemoryKills(), Channel.join(world.address, 0, world.attempt)
    environment = os.environ | world.for_worker() | threads_of_rank(threads) | {"COGTUNE_PARENT": str(os.getpid())}
    processes: list[subprocess.Popen[bytes]] = []
    with log.open("a") as output, forwarding_stops(processes) as received:
        own = subprocess.Popen(WORKER, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        processes.append(own)
        channel.send_plan(plan)
        follower = Follower(channel, ranks, own, on_line, announcing(received, on_poll), lambda: _own_end(own, memory))
        try:
            ends = follower.until_ended()
        finally:
            follower.end_all(lambda: None)
    return outcome(ends, received, log)


def _own_end(process: "subprocess.Popen[bytes]", memory: MemoryKills) -> dict[int, RankEnd]:
    code = process.poll()
    return {} if code is None else {0: RankEnd(0, code, out_of_memory=memory.any(), host=os.uname().nodename)}
