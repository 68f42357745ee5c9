"""What the groups of cases share: the device, the size, the time that is left, and the report of a finished row."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from bench.gpu.clock import Run, kernels, measure
from bench.gpu.results import Results, Row, peak_rate
from bench.gpu.setting import FILES


@dataclass
class Bench:
    """``models``: keys of `FILES`; ``seconds``: no new case starts after them; ``on_row`` gets every row when it is done."""

    device: torch.device
    tiny: bool
    models: list[str] = field(default_factory=lambda: list(FILES))
    runs: int = 2
    peer: bool = True
    compiled: bool = True
    seconds: float = 540.0
    on_row: Callable[[Row], None] = lambda row: None
    results: Results | None = None
    profiles: Path | None = None

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self.rate = peak_rate(self.device)

    @property
    def late(self) -> bool:
        """Whether no new case may start."""
        return time.monotonic() - self._started > self.seconds

    def time(
        self,
        row: Row,
        run: Run,
        flops: float | None = None,
        warm_up: Run | None = None,
        kept: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Measure ``run`` and report ``row`` with its figures. A row that misses its target also gets a table of kernels.
        ``kept``: asked after the last call, see `Row`."""
        if self.late:
            self.on_row(replace(row, note=f"not run: {self.seconds:.0f} s were over"))
            return
        measured = measure(run, self.device, self.runs, warm_up)
        if measured is None:
            self.on_row(replace(row, note="out of memory"))
            return
        share = flops / measured.seconds / self.rate if flops and self.rate else None
        row = replace(row, seconds=measured.seconds, peak=measured.peak, kept=kept(), share=share)
        self.on_row(row)
        self._profile(row, run)

    def _profile(self, row: Row, run: Run) -> None:
        target = self.results.target(row) if self.results else None
        if target is None or target.met(row) or self.profiles is None:
            return
        name = f"{row.group}-{row.model}-{row.case}".replace(" ", "_").replace(",", "").replace("/", "-")
        self.profiles.mkdir(parents=True, exist_ok=True)
        (self.profiles / f"profile-{name}.txt").write_text(kernels(run, self.device), encoding="utf-8")

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """A case's block: afterwards its memory is free again."""
        try:
            yield
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
