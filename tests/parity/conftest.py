"""One thread is fastest for tiny tensors; `make test-kernels` also takes two. `limits.py` says what the limits are.

`pytest tests/parity` ends with the largest error of every check and family.
"""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from rich.console import Console
from rich.table import Table

LARGEST: dict[str, dict[str, float]] = {}
LIMITS: dict[str, float] = {}


@pytest.fixture(autouse=True, scope="package")
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("PARITY_THREADS", "1")))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def hold() -> Callable[[str, str, float, float], None]:
    """hold(check, model, error, limit): fails above the limit; the table at the end shows the largest error."""

    def hold(check: str, model: str, error: float, limit: float) -> None:
        row = LARGEST.setdefault(check, {})
        row[model], LIMITS[check] = max(error, row.get(model, 0.0)), limit
        assert error <= limit, f"{check}, {model}: {error:.2e}, limit {limit:.0e}"

    return hold


def pytest_terminal_summary() -> None:
    if not LARGEST:
        return
    models = list(dict.fromkeys(model for row in LARGEST.values() for model in row))
    table = Table("check", "limit", *models, title="Largest error (share of the largest value)")
    for check, row in LARGEST.items():
        table.add_row(check, f"{LIMITS[check]:.2g}", *(f"{row[model]:.1e}" if model in row else "" for model in models))
    console = Console(width=140)
    console.print()
    console.print(table)
