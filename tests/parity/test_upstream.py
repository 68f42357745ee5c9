"""Against what upstream's own code computed (upstream/record.py says how; its commits are in the file's metadata)."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.parity import limits
from tests.parity.upstream import cases, ours, record

Hold = Callable[[str, str, float, float], None]


def test_every_recorded_tensor_is_compared() -> None:
    names = [
        "timesteps",
        *(f"{cases.dit_name(*case)}/{what}" for case in cases.DITS for what in ("output", "gradients")),
    ]
    names += [*(f"vae/encoded/{n}" for n in cases.ENCODED), *(f"vae/decoded/{n}" for n in cases.DECODED)]
    for kind, listed in (
        ("schedule", cases.schedule_nodes()), ("sampled", cases.sampler_nodes()), ("loss", cases.loss_nodes())
    ):  # fmt: skip
        names += [f"{kind}/{name}" for name in listed]
    assert sorted(names) == sorted(ours.recorded(""))


def test_a_folder_that_is_no_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["record", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        record.main()
    assert f"{tmp_path} has no sat/dit_video_concat.py; expected a clone" in capsys.readouterr().err


@pytest.mark.parametrize("case", cases.DITS, ids=lambda case: cases.dit_name(*case))
def test_dit(case: ours.Case, hold: Hold) -> None:
    error = ours.network_errors(case, ours.network(case))
    hold("output, upstream's own", case[0], error["output"], limits.NETWORK)
    hold("gradients, upstream's own", case[0], error["gradients"], limits.GRADIENTS)


def test_timesteps(hold: Hold) -> None:
    hold("timestep embedding, upstream's own (ulp)", "diffusion", ours.timestep_ulps(), limits.ANGLE_ULPS)


def test_vae(hold: Hold) -> None:
    for what, error in ours.vae_errors().items():
        hold(f"{what}, upstream's own", "VAE", error, limits.VAE)


@pytest.mark.parametrize("name", cases.schedule_nodes())
def test_schedule(name: str, hold: Hold) -> None:
    hold("schedule, upstream's own", "diffusion", ours.schedule_error(name), limits.ARITHMETIC)


@pytest.mark.parametrize("name", cases.sampler_nodes())
def test_trajectory(name: str, hold: Hold) -> None:
    hold("trajectory, upstream's own", "diffusion", ours.trajectory_error(name), limits.TRAJECTORY)


@pytest.mark.parametrize("name", cases.loss_nodes())
def test_loss(name: str, hold: Hold) -> None:
    kind = name.partition(",")[0]
    hold(f"{kind} loss, upstream's own", "diffusion", ours.loss_error(name), limits.ARITHMETIC)
