"""What a scheduler granted to the job that this process is part of."""

import os
import re
from collections.abc import Mapping

_COUNT = re.compile(r"(?:[^,:]+:)?(\d+)")


def granted_cores(environment: Mapping[str, str] | None = None) -> int:
    """CPU cores of a task of this Slurm job; outside Slurm, those that this process may use."""
    cores = (os.environ if environment is None else environment).get("SLURM_CPUS_PER_TASK", "")
    return int(cores) if cores.isdigit() else len(os.sched_getaffinity(0))


def granted_gpus(environment: Mapping[str, str] | None = None) -> int:
    """GPUs that this Slurm job requested by `--gpus`: "2", "a100:2" or "a100:1,h100:1"; 0 if it used another option."""
    gpus = (os.environ if environment is None else environment).get("SLURM_GPUS", "")
    counts = [_COUNT.fullmatch(part) for part in gpus.split(",")]
    return sum(int(count[1]) for count in counts if count)
