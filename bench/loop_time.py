"""One rank of training with a clock on its parts: `python -m bench.loop_time PLAN.json`, a process of `bench.train`.

Prints one JSON line: CPU milliseconds of this thread per step in forward, backward, the engine's step, and in all else that
the loop does (`rest`), without the last checkpoint. CPU time, so that other programs on the machine do not count; one thread
computes. Waiting for data and for other ranks does not count either.
"""

import io
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from deepspeed.runtime.engine import DeepSpeedEngine

from cogtune.train import loop as loop_module
from cogtune.train.loop import Loop
from cogtune.train.session import train
from cogtune.train.stop import StopRequest

WARM_UP = 3
"""Steps that are not counted: the optimizer makes its state in the first."""


class Clock:
    """Seconds of this thread by part, since the last `reset`."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self.steps = 0
        self._started = 0.0

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.thread_time() - started

        return call

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` is called once a step, first of all parts."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.steps == WARM_UP:
                self.seconds.clear()
                self._started = time.thread_time()
            self.steps += 1
            return function(*args, **kwargs)

        return call

    def milliseconds(self) -> dict[str, float]:
        """Of one step. ``rest``: all that is no other part."""
        counted = self.steps - WARM_UP
        whole = time.thread_time() - self._started
        parts = {part: self.seconds[part] for part in ("forward", "backward", "step")}
        parts["rest"] = whole - sum(self.seconds.values())
        return {part: 1000 * seconds / counted for part, seconds in parts.items()}


def main() -> None:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "CUDA_VISIBLE_DEVICES": ""}
    plan = json.loads(Path(sys.argv[1]).read_text())
    os.environ["COGTUNE_RENDEZVOUS"] = f"file://{plan['folder']}/rendezvous"
    clock, result = Clock(), dict[str, float]()
    run = Loop.run

    def run_and_read(self: Loop, start: int) -> bool:
        finished = run(self, start)
        result.update(clock.milliseconds())
        return finished

    with (
        patch.object(loop_module, "micro_loss", clock.timed("forward", loop_module.micro_loss)),
        patch.object(DeepSpeedEngine, "backward", clock.timed("backward", DeepSpeedEngine.backward)),
        patch.object(DeepSpeedEngine, "step", clock.timed("step", DeepSpeedEngine.step)),
        patch.object(Loop, "_step", clock.counted(Loop._step)),
        patch.object(Loop, "_save", clock.timed("save", Loop._save)),
        patch.object(Loop, "run", run_and_read),
    ):
        train(plan, io.StringIO(), StopRequest(143, lambda code: os._exit(code)))
    print("RESULT " + json.dumps(result), flush=True)
    os._exit(0)  # threads of the communication library abort now and then when the interpreter cleans up


if __name__ == "__main__":
    main()
