"""One rank of training: `python -m cogtune.train.worker PLAN.json`. RANK, LOCAL_RANK and WORLD_SIZE identify the rank.

`launch.py` starts the ranks of one machine. torchrun can start ranks on several: without COGTUNE_RENDEZVOUS they meet
at MASTER_ADDR:MASTER_PORT.
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
from types import FrameType
from typing import Any, NoReturn

_STOP_REQUESTS: list[int] = []


def _remember_stop(number: int, frame: FrameType | None) -> None:
    _STOP_REQUESTS.append(number)


def main() -> None:
    """Train, or write the error for the starting process. Exit codes: 0 done, 143 stopped after a checkpoint, 1 error."""
    signal.signal(signal.SIGTERM, _remember_stop)  # before the slow imports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process decides
    from cogtune.runtime.children import die_with_parent
    from cogtune.runtime.log import log_to_terminal

    if parent := os.environ.get("COGTUNE_PARENT"):
        die_with_parent(int(parent))
    parser = argparse.ArgumentParser("python -m cogtune.train.worker", description="One rank of training.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--errors", type=Path, default=None, help="folder for error-<rank>.json")
    arguments = parser.parse_args()
    log_to_terminal(times=True)
    if os.environ.get("RANK", "0") != "0":  # libraries warn of the same on every rank
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
    try:
        from cogtune.train.session import train

        finished = train(json.loads(arguments.plan.read_text()), reporter(), lambda: bool(_STOP_REQUESTS))
    except BaseException as error:
        from cogtune.errors import UserError
        from cogtune.runtime.failures import explain
        from cogtune.train.launch import leave_error

        user_error = error if isinstance(error, UserError) else explain(error)
        if arguments.errors is not None:
            rank, expected = int(os.environ.get("RANK", "0")), user_error is not None
            with suppress(OSError):  # a full disk must not hide the first error
                leave_error(arguments.errors, rank, user_error or error, expected, traceback.format_exc())
        with suppress(OSError):
            print(user_error or traceback.format_exc(), file=sys.stderr)
        _leave(1)
    _leave(0 if finished else 143)


def reporter() -> Any:
    """The stream for reports of the first rank: a pipe to the starting process, or /dev/null."""
    descriptor = os.environ.get("COGTUNE_REPORT_FD")
    return open(int(descriptor), "w", buffering=1) if descriptor else open(os.devnull, "w")


def _leave(code: int) -> NoReturn:
    """Exit without the interpreter's clean-up, in which threads of the communication library sometimes abort."""
    with suppress(OSError):  # a full disk must not change the exit code
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
