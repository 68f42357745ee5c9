"""What a training leaves in the store: final/model.safetensors, without computed tables, and checkpoints/step-…"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cogtune.__main__ import main
from cogtune.checkpoints import kinds, read_header
from cogtune.checkpoints.shapes import PREFIXES, derived_names
from cogtune.checkpoints.training import FORMAT, MASTER, RECORD, Record, stored_name
from cogtune.commands.weights_convert import convert
from cogtune.errors import UserError
from cogtune.model.lora import is_adapter
from cogtune.model.weights import load_weights
from cogtune.model.weights.lora_formats import read_pairs
from cogtune.runtime.saved import write_sealed
from tests.families import FAMILIES, network_config, randomised
from tests.unit.commands.test_weights_convert import TINY, tiny


def final(folder: Path, state: dict[str, Tensor]) -> Path:
    """As `train/result.py` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"cogtune": json.dumps({"run": "0" * 12, "steps": 3})}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors", facts)
    return folder / "model.safetensors"


def checkpoint(folder: Path, state: dict[str, Tensor]) -> Path:
    """As two ranks of `train/checkpoint.py` write it, without the optimizer: the second has the last third of each tensor."""
    step = folder / "step-00000003"
    step.mkdir(parents=True)
    cuts = {name: (0, 2 * tensor.numel() // 3, tensor.numel()) for name, tensor in state.items()}
    ranges, files = dict[str, dict[str, list[int]]](), dict[str, str]()
    for rank in range(2):
        file = f"rank-{rank:05d}.safetensors"
        ranges[file] = {name: [cut[rank], cut[rank + 1]] for name, cut in cuts.items() if cut[rank] < cut[rank + 1]}
        parts = {name: state[name].flatten()[begin:end].clone() for name, (begin, end) in ranges[file].items()}
        save_file({stored_name(MASTER, name): part for name, part in parts.items()}, step / file)
        files[file] = hashlib.sha256((step / file).read_bytes()).hexdigest()
    record = Record(
        format=FORMAT, step=3, ranks=2, files=files, shapes={name: list(t.shape) for name, t in state.items()},
        ranges=ranges, states=[], scalars={}, whole={}, whole_keys={}, groups=[], counters={},
    )  # fmt: skip
    write_sealed(step / RECORD, asdict(record))
    return step


def earlier_checkpoint(folder: Path, state: dict[str, Tensor], file: str = "mp_rank_00_model_states.pt") -> Path:
    """As versions before wrote it: DeepSpeed's file, without the optimizer."""
    step = folder / "step-00000003"
    (step / "state").mkdir(parents=True)
    torch.save({"module": state}, step / "state" / file)
    (step / "record.json").write_text("{}")
    return step


@pytest.mark.parametrize("family", FAMILIES)
def test_computed_tables_may_be_missing(family: str, tmp_path: Path) -> None:
    node = network_config(family)
    state = randomised(node, seed=1).state_dict()
    learned = {name: tensor for name, tensor in state.items() if name not in derived_names(node)}
    network = randomised(node, seed=2)
    load_weights(network, final(tmp_path, learned))
    loaded = network.state_dict()
    assert [name for name in learned if not torch.equal(loaded[name], learned[name])] == []
    computed = network.derived_state()
    assert [name for name in computed if not torch.equal(loaded[name], computed[name])] == []


@pytest.mark.heavy
@pytest.mark.parametrize("write", [final, checkpoint, earlier_checkpoint])
def test_inspect_and_convert_read_a_full_training(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = randomised(tiny(), seed=1).state_dict()
    source = write(tmp_path / "train", {name: t for name, t in state.items() if name not in derived_names(tiny())})
    assert main(["weights", "inspect", str(source), "--base", *TINY]) == 0
    told = capsys.readouterr().out
    assert "transformer fits" in told
    assert ("training checkpoint step-00000003" in told) == (write is not final)
    sat = read_header(convert(source, "sat", tmp_path / "sat", base=TINY))
    assert kinds.component(sat, PREFIXES["network"]).keys() == state.keys(), "SAT's files hold the tables"
    for form in ("sat", "diffusers"):
        network = randomised(tiny(), seed=2)
        load_weights(network, tmp_path / "sat" if form == "sat" else convert(source, form, tmp_path / form, base=TINY))
        loaded = network.state_dict()
        assert [
            name for name in state.keys() - derived_names(tiny()) if not torch.equal(loaded[name], state[name])
        ] == []


@pytest.mark.parametrize("write", [final, checkpoint, earlier_checkpoint])
def test_adapters_of_a_run_need_their_alpha(write: Any, tmp_path: Path) -> None:
    state = randomised(tiny(lora={"r": 4, "lora_alpha": 8}), seed=1).state_dict()
    source = write(tmp_path / "train", {name: tensor for name, tensor in state.items() if is_adapter(name)})
    with pytest.raises(UserError, match=r"do not contain alpha\. Give it with --alpha .* results/<experiment>/export"):
        convert(source, "diffusers_lora", tmp_path / "without")
    pairs = read_pairs(read_header(convert(source, "diffusers_lora", tmp_path / "with", alpha=8)))
    assert {pair.alpha for pair in pairs.values()} == {8}


def test_weights_split_by_zero3_are_told_where_the_whole_ones_are(tmp_path: Path) -> None:
    source = earlier_checkpoint(tmp_path, {}, "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match=r"split over the ranks \(ZeRO-3\).*train/<key>/final/model\.safetensors"):
        read_header(source)
