"""One rank of training: `python -m cogtune.train.worker [PLAN.json]`.

RANK, LOCAL_RANK and WORLD_SIZE say which rank it is; srun's variables say the same of a Slurm task. A rank of this
machine's launcher (`launch.py`) reads a plan file. The others (`srun.py`, `joined.py`) connect to COGTUNE_STORE and get the
plan there.
"""

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cogtune.runtime.stopping import STOPPED
from cogtune.train.stop import StopRequest

if TYPE_CHECKING:
    from cogtune.train.channel import Channel

_OF_SLURM = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}
"""Set by srun for each task of a step, which no other program changes before this one reads them."""

ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}
"""A user's own settings of PyTorch's allocator."""


def main() -> None:
    """Train, or write the error for the starting process. Exit codes: 0 done, 143 stopped after a checkpoint, 1 error."""
    rank = Rank()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process decides
    from cogtune.runtime.children import die_with_parent
    from cogtune.runtime.log import log_to_terminal

    prepare_allocator()
    if parent := os.environ.get("COGTUNE_PARENT"):
        die_with_parent(int(parent))
    parser = argparse.ArgumentParser("python -m cogtune.train.worker", description="One rank of training.")
    parser.add_argument("plan", type=Path, nargs="?", default=None)
    parser.add_argument("--errors", type=Path, default=None, help="folder for error-<rank>.json")
    arguments = parser.parse_args()
    rank.errors = arguments.errors
    log_to_terminal(times=True)
    if os.environ.get("RANK", "0") != "0":  # libraries warn of the same on every rank
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
    try:
        finished = rank.train(arguments.plan)
    except BaseException as error:
        rank.fail(error)
    rank.leave(0 if finished else STOPPED)


def prepare_allocator() -> None:
    """On a machine with GPUs, let the blocks of PyTorch's allocator grow, unless the user has settings: they are less
    fragmented, as activations and ZeRO's buckets differ in size. Call it before torch is imported."""
    from cogtune.runtime.machines import gpu_count

    if gpu_count() and not os.environ.keys() & ALLOCATOR:
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


class Rank:
    """Which rank this process is, and its connection to the process that runs the stage."""

    def __init__(self) -> None:
        self.stop = StopRequest(STOPPED, self.leave)  # before the slow imports
        if "SLURM_PROCID" in os.environ and "RANK" not in os.environ:
            os.environ |= {ours: os.environ[slurm] for ours, slurm in _OF_SLURM.items()}
        self.number = int(os.environ.get("RANK", "0"))
        self.channel: Channel | None = None
        """For calls that return at once, from any thread. `torch.distributed` has a connection of its own."""
        self.errors: Path | None = None

    def train(self, plan: Path | None) -> bool:
        """Whether training is done; False if it was stopped."""
        from cogtune.train.channel import from_environment, watch
        from cogtune.train.network import use_interface

        self.channel = from_environment(self.number)
        ranks = from_environment(self.number)
        if self.channel is None or ranks is None:
            from cogtune.train.session import train

            assert plan is not None, "a rank of this machine's launcher gets a plan file"
            return train(json.loads(plan.read_text()), reporter(), self.stop)
        watch(self.channel, self.number)
        use_interface()
        if step := os.environ.get("SLURM_STEP_ID"):
            self.channel.say_step(step)
        rank_plan = self.channel.plan()
        if rank_plan is None:
            return True
        from cogtune.train.session import train

        report = self.channel.reporter() if self.number == 0 else reporter()
        return train(rank_plan, report, self.stop, ranks.of_ranks())

    def fail(self, error: BaseException) -> NoReturn:
        """Write ``error`` for the starting process, print it, and end."""
        from cogtune.errors import UserError
        from cogtune.runtime.failures import explain
        from cogtune.train.ends import RankError
        from cogtune.train.launch import leave_error

        message = error if isinstance(error, UserError) else explain(error)
        left = RankError.of(self.number, message or error, message is not None, traceback.format_exc())
        if self.errors is not None:
            with suppress(OSError):  # a full disk must not hide the first error
                leave_error(self.errors, left)
        with suppress(OSError):
            print(message or left.traceback, file=sys.stderr)
        self.leave(1, left)

    def leave(self, code: int, error: Any = None) -> NoReturn:
        """Exit without the interpreter's clean-up, in which threads of the communication library sometimes abort."""
        if self.channel is not None:
            with suppress(RuntimeError):  # the stage's process is gone
                self.channel.say_end(self.number, code, error, os.uname().nodename)
        with suppress(OSError):  # a full disk must not change the exit code
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def reporter() -> Any:
    """The stream for reports of the first rank: a pipe to the starting process, or /dev/null."""
    descriptor = os.environ.get("COGTUNE_REPORT_FD")
    return open(int(descriptor), "w", buffering=1) if descriptor else open(os.devnull, "w")


if __name__ == "__main__":
    main()
