"""Trainings of a small network under one number of ranks and stage that go on under another, in forks of this process.

`run` forks the ranks of each world once for all its cases: an engine is built in a fraction of a second, a process group
and the imports take many.
"""

import json
import os
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore  # pyright: ignore[reportPrivateImportUsage]

from cogtune.config.schema.checkpointing import Policy
from cogtune.errors import UserError
from cogtune.model import checkpointing

STEPS, STOP = 8, 4
GLOBAL_BATCH = 4
ODD: dict[str, Any] = {
    "contiguous_gradients": False, "overlap_comm": True, "reduce_scatter": False, "reduce_bucket_size": 200,
    "allgather_partitions": False, "allgather_bucket_size": 100, "use_multi_rank_bucket_allreduce": False,
    "sub_group_size": 500, "stage3_prefetch_bucket_size": 10, "stage3_max_live_parameters": 1,
    "stage3_max_reuse_distance": 1, "stage3_param_persistence_threshold": 0, "stage3_model_persistence_threshold": 0,
}  # fmt: skip
"""Values that nobody sets, of keys that may change within a training."""


@dataclass(frozen=True)
class Case:
    """A training: number of ranks, ZeRO's stage, precision, and whether the optimizer is on the CPU."""

    ranks: int
    stage: int
    precision: str
    offload: bool = False
    optimizer: str = ""
    """Of `torch.optim`, or `Blocks`; else AdamW with the average."""
    odd: bool = False
    """Whether the section has `ODD`."""

    @property
    def name(self) -> str:
        return f"{self.ranks}x{self.stage}{'o' if self.offload else ''}-{self.precision}{self.optimizer}{'-odd' if self.odd else ''}"

    def section(self) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self.stage, "stage3_param_persistence_threshold": 40}
        if self.odd:
            zero |= ODD
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        optimizer = {"type": "sat.ops.FusedEmaAdam", "params": {"betas": [0.9, 0.95]}}
        precision = {} if self.precision == "fp32" else {self.precision: {"enabled": True}}
        return {"zero_optimization": zero, "gradient_clipping": 1.0, "optimizer": optimizer} | precision


def network() -> nn.Module:
    """Sizes that no number of ranks divides. Two biases and the norm are small enough to stay whole at stage 3."""
    torch.manual_seed(0)
    layer = Layer(nn.Linear(11, 37), nn.GELU(), nn.LayerNorm(37), nn.Linear(37, 53))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(53, 5))


class Layer(nn.Sequential):
    """Its activations are recomputed but for products, which needs the same operations in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpointing.run(Policy.SELECTIVE, super().forward, x, adapter_rank=None, has_dropout=False)


class Blocks(torch.optim.SGD):
    """Keeps a number for every 4 elements, as quantising optimizers do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    scales = self.state[p].setdefault("scales", torch.zeros(-(-p.numel() // 4)))
                    scales.add_(p.grad.abs().mean())
                    p.grad.div_(1 + scales.max())
        return super().step(closure)


class Run:
    """One rank's engine of a case. ``saved``: the checkpoint in ``folder`` with which it began."""

    def __init__(self, case: Case, folder: Path) -> None:
        from cogtune.train.checkpoint import Checkpoints
        from cogtune.train.engine import build_engine, deepspeed_config
        from cogtune.train.optim import parameter_groups
        from cogtune.train.optimizers import make_optimizer
        from cogtune.work.batches import BatchPlan

        self.case, self.module = case, network()
        self.micro = GLOBAL_BATCH // case.ranks
        if case.optimizer:
            kind = Blocks if case.optimizer == "Blocks" else getattr(torch.optim, case.optimizer)
            optimizer = kind(parameter_groups(self.module, 0.01), lr=1e-2)
        else:
            optimizer = make_optimizer(self.module, case.section()["optimizer"], 0.01, torch.device("cpu"))
        config = deepspeed_config(case.section(), BatchPlan(self.micro, 1, case.ranks), torch.device("cpu"))
        self.engine = build_engine(self.module, optimizer, config)
        store = FileStore(str(folder.with_name(f"{folder.name}--{case.name}.store")), case.ranks)
        self.checkpoints = Checkpoints(self.engine, folder, keep=1, store=store)
        self.saved = self.checkpoints.load_newest()

    def steps(self, begin: int, end: int) -> list[float]:
        """The losses of the global batches, as the means of the ranks' losses."""
        return [self._step(step) for step in range(begin, end)]

    def _step(self, step: int) -> float:
        from cogtune.train.engine import take_step

        draw = torch.Generator().manual_seed(step)
        x, y = torch.randn(GLOBAL_BATCH, 11, generator=draw), torch.randn(GLOBAL_BATCH, 5, generator=draw)
        mine = slice(dist.get_rank() * self.micro, (dist.get_rank() + 1) * self.micro)
        loss = (self.engine(x[mine].to(_dtype(self.case))).float() - y[mine]).square().mean()
        self.engine.backward(loss)
        take_step(self.engine, 1e-2)
        total = loss.detach().double()
        dist.all_reduce(total)
        return float(total) / self.case.ranks

    @torch.no_grad()
    def validate(self) -> None:
        """As a start does that finds no validation of its first step."""
        from cogtune.train.average import average_weights
        from cogtune.train.validation import unrecorded

        x = torch.ones(1, 11, dtype=_dtype(self.case))
        with unrecorded(self.engine):
            self.engine.eval()
            self.engine(x)
            with average_weights(self.engine):
                self.engine(x)
            self.engine.train()

    def tensors(self) -> dict[str, list[float]]:
        """Masters, and all states of the optimizer, flat."""
        from cogtune.train.engine import full_tensors

        states = (None,) if self.case.optimizer else (None, "exp_avg", "exp_avg_sq", "shadow")
        return {
            str(state): torch.cat([t.flatten() for t in full_tensors(self.engine, self.module, state)]).tolist()
            for state in states
        }

    def weights_are_rounded_masters(self) -> bool:
        """Whether the weights of training, after loading, are the masters in the precision of training."""
        import deepspeed

        from cogtune.train.engine import full_tensors, trained_shapes

        parameters = dict(self.module.named_parameters())
        with deepspeed.zero.GatheredParameters(list(parameters.values())):
            pairs = zip(trained_shapes(self.module), full_tensors(self.engine, self.module), strict=True)
            return all(
                torch.equal(parameters[name].detach(), master.to(parameters[name].dtype)) for name, master in pairs
            )


def _dtype(case: Case) -> torch.dtype:
    return torch.bfloat16 if case.precision == "bf16" else torch.float32


def undisturbed(case: Case, root: Path) -> dict[str, Any]:
    """All steps at once, with a checkpoint after `STOP` of them."""
    run = Run(case, root / case.name)
    assert run.saved is None
    first = run.steps(0, STOP)
    run.checkpoints.save(STOP)
    losses = run.steps(STOP, STEPS)  # while it is written
    run.checkpoints.wait()
    return {"losses": first + losses, "tensors": run.tensors()}


def resumed(source: Case, target: Case, root: Path) -> dict[str, Any]:
    """The steps after the checkpoint of ``source``, as ``target``."""
    try:
        run = Run(target, root / source.name)
    except UserError as error:
        return {"error": str(error)}
    assert run.saved is not None
    assert (run.saved.step, run.saved.ranks) == (STOP, source.ranks)
    rounded = run.weights_are_rounded_masters()
    if not target.optimizer:
        run.validate()
    return {"losses": run.steps(STOP, STEPS), "tensors": run.tensors(), "rounded": rounded}


def run(root: str, pairs: list[tuple[Case, Case]]) -> int:
    """Train all cases of ``pairs``, then go on from each checkpoint; results in ``root``."""
    cases = list(dict.fromkeys(case for pair in pairs for case in pair))
    for ranks in sorted({case.ranks for case in cases}):
        _fork_ranks(Path(root), ranks, [[asdict(case)] for case in cases if case.ranks == ranks])
    for ranks in sorted({target.ranks for _, target in pairs}):
        _fork_ranks(Path(root), ranks, [[asdict(a), asdict(b)] for a, b in pairs if b.ranks == ranks])
    return 0


def result(root: Path, *cases: Case) -> dict[str, Any]:
    """What `run` left of an undisturbed case, or of a pair."""
    return json.loads((root / f"{'--'.join(case.name for case in cases)}.json").read_text())


def _fork_ranks(root: Path, ranks: int, work: list[list[dict[str, Any]]]) -> None:
    meeting = root / f"meeting-{ranks}-{len(list(root.glob('meeting-*')))}"
    pids = []
    for rank in range(ranks):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                _rank(root, rank, ranks, meeting, work)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert not any(codes), f"exit codes of {ranks} ranks: {codes}"


def _rank(root: Path, rank: int, ranks: int, meeting: Path, work: list[list[dict[str, Any]]]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), CUDA_VISIBLE_DEVICES="")
    from cogtune.train.engine import RankInfo, connect

    torch.set_num_threads(1)
    connect(RankInfo(rank, ranks, rank), f"file://{meeting}")
    for arguments in work:
        cases = [Case(**values) for values in arguments]
        outcome = undisturbed(cases[0], root) if len(cases) == 1 else resumed(cases[0], cases[1], root)
        if rank == 0:
            (root / f"{'--'.join(case.name for case in cases)}.json").write_text(json.dumps(outcome))
        dist.barrier()
