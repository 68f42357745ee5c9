"""Rows of the benchmark: what was measured, what the plan predicts, what was aimed at; as JSON and as Markdown."""

import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from cogtune.runtime.machines import find
from cogtune.runtime.typed_json import from_json

GIB = 2**30
MEMORY_WITHIN, TIME_WITHIN = 0.08, 0.20
"""How far the plan's memory and time may be from the measured ones."""


@dataclass(frozen=True)
class Row:
    """``seconds`` of a call that handles ``count`` units (``unit``: clips, captions, parameters …), None if ``note`` says
    why. ``share``: of the device's peak FLOP/s, recomputation counted. ``peak``: bytes at the highest point, with weights;
    ``kept``: bytes that a forward pass keeps for the backward pass."""

    group: str
    model: str
    case: str
    side: str
    seconds: float | None
    unit: str
    count: float = 1
    share: float | None = None
    peak: float | None = None
    kept: float | None = None
    planned_seconds: float | None = None
    planned_peak: float | None = None
    note: str = ""

    @property
    def per_second(self) -> float | None:
        return self.count / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Target:
    """A figure to reach on ``device``: at most ``seconds`` for a call, or at least ``per_second`` units."""

    device: str
    group: str
    model: str
    case: str
    seconds: float | None = None
    per_second: float | None = None

    def of(self, row: Row, device: str) -> bool:
        same = (row.group, row.model, row.case, row.side) == (self.group, self.model, self.case, "cogtune")
        return same and self.device in device

    def met(self, row: Row) -> bool:
        if self.seconds is not None:
            return row.seconds is not None and row.seconds <= self.seconds
        return row.per_second is not None and self.per_second is not None and row.per_second >= self.per_second

    def __str__(self) -> str:
        return f"<= {self.seconds:g} s" if self.seconds is not None else f">= {self.per_second:g}/s"


TARGETS = (
    Target("H100", "steps", "5b", "LoRA 128, selective", seconds=2.3),
    Target("H100", "steps", "5b", "LoRA 128, full", seconds=2.9),
    Target("H100", "encoders", "vae", "encode 49x480x720", per_second=2.0),
    Target("H100", "encoders", "t5", "226 tokens, batches of 16", per_second=150.0),
    Target("H100", "sampling", "5b", "50 steps, guided", seconds=85.0),
)


@dataclass(frozen=True)
class Environment:
    """Where the rows were measured."""

    device: str
    driver: str
    torch: str
    cuda: str
    attention: str
    python: str = field(default_factory=platform.python_version)


@dataclass(frozen=True)
class Results:
    """All rows of a run."""

    environment: Environment
    rows: list[Row]

    @classmethod
    def read(cls, path: Path) -> "Results":
        return from_json(cls, json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def target(self, row: Row) -> Target | None:
        return next((target for target in TARGETS if target.of(row, self.environment.device)), None)

    def markdown(self) -> str:
        """The environment, a table for each group, and how well the plan predicted."""
        e = self.environment
        lines = [
            f"{e.device}, driver {e.driver}, torch {e.torch}, CUDA {e.cuda}, Python {e.python}; attention: {e.attention}."
        ]
        for group in dict.fromkeys(row.group for row in self.rows):
            lines += ["", f"### {group}", *self._table([row for row in self.rows if row.group == group])]
        return "\n".join([*lines, "", *self._predictions()]) + "\n"

    def _table(self, rows: Sequence[Row]) -> Iterable[str]:
        heading = (
            "model",
            "case",
            "side",
            "s",
            "per second",
            "of peak",
            "peak GiB",
            "kept GiB",
            "plan: s",
            "plan: GiB",
            "target",
        )
        yield ""
        yield _line(heading)
        yield _line(["---"] * 3 + ["---:"] * 7 + ["---"])
        for row in rows:
            target = self.target(row)
            goal = f"{target} {'met' if target.met(row) else 'MISSED'}" if target else ""
            rate = f"{row.per_second:,.3g} {row.unit}" if row.per_second else ""
            yield _line(
                [
                    *(row.model, row.case, row.side),
                    _text(row.seconds, "{:.3g}") or row.note,
                    *(rate, _text(row.share, "{:.0%}"), _gib(row.peak), _gib(row.kept)),
                    *(_text(row.planned_seconds, "{:.3g}"), _gib(row.planned_peak), goal),
                ]
            )

    def _predictions(self) -> Iterable[str]:
        yield from (
            _prediction(name, within, self.rows, measured, planned)
            for name, within, measured, planned in (
                ("memory", MEMORY_WITHIN, lambda row: row.peak, lambda row: row.planned_peak),
                ("time", TIME_WITHIN, lambda row: row.seconds, lambda row: row.planned_seconds),
            )
        )

    def missed(self) -> list[Row]:
        """The rows that miss their target."""
        return [row for row in self.rows if (target := self.target(row)) and not target.met(row)]


def _prediction(
    name: str,
    within: float,
    rows: Sequence[Row],
    measured: "Callable[[Row], float | None]",
    planned: "Callable[[Row], float | None]",
) -> str:
    pairs = [(m, p, row) for row in rows if (m := measured(row)) and (p := planned(row))]
    if not pairs:
        return f"The plan's {name}: no row to compare.  "
    errors = sorted(((p / m - 1, row) for m, p, row in pairs), key=lambda pair: abs(pair[0]))
    good = sum(abs(error) <= within for error, _ in errors)
    worst, row = errors[-1]
    where = f"{row.group}, {row.model}, {row.case}"
    return f"The plan's {name}: {good} of {len(errors)} rows within {within:.0%}; worst {worst:+.0%} ({where}).  "


def environment(device: torch.device) -> Environment:
    """Of this process and ``device``."""
    if device.type != "cuda":
        return Environment(platform.processor() or platform.machine(), "-", torch.__version__, "-", "of the CPU")
    return Environment(
        torch.cuda.get_device_name(device), _driver(), torch.__version__, str(torch.version.cuda), _attention(device)
    )


def _driver() -> str:
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text(encoding="utf-8").split() if path.exists() else []
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")


def _attention(device: torch.device) -> str:
    """The back-end that torch selects for the attention of 5B in bf16, by its own priority."""
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend

    q_BHND = torch.empty(1, 48, 1024, 64, device=device, dtype=torch.bfloat16)
    choice = torch._fused_sdp_choice(q_BHND, q_BHND, q_BHND)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    F.scaled_dot_product_attention(q_BHND, q_BHND, q_BHND)
    return SDPBackend(choice).name.lower()


def peak_rate(device: torch.device) -> float | None:
    """FLOP/s in bf16 of a known GPU."""
    if device.type != "cuda":
        return None
    known = find(torch.cuda.get_device_name(device))
    return known.half if known and known.half else None


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _gib(value: float | None) -> str:
    return "" if value is None else f"{value / GIB:.1f}"
