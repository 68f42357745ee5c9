"""The item key and the job key of every stage, for every config that is shipped, against a recorded list: what a change of
code must not move, or a store is made again.

The versions of the stages stand beside the keys, not in them: a raised version is one line of `VERSIONS` in the record.
After a change that is meant: `python -m tests.unit.work.test_keys`, look at `git diff`, commit.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from cogtune.runtime.deferred import DeferredWrites
from cogtune.runtime.digest import DIGESTS, digest, key_of
from cogtune.runtime.saved import write_sealed
from cogtune.work.content_hashes import ContentHashes, Source
from cogtune.work.load import load_config
from cogtune.work.resolve import Resolver, RunPaths
from cogtune.work.slices import Slice
from cogtune.work.stages import SAMPLING, STAGES, SWEEP

REPO = Path(__file__).resolve().parents[3]
RECORD = Path(__file__).parent / "keys.json"
MODELS = [path.stem for path in sorted(REPO.glob("config/cogvideox*_*.yaml")) if path.stem != "cogvideox_common"]
TESTS = "tests/workflow"

CASES: dict[str, tuple[str, ...]] = {
    **{f"{model} sft": (f"config/{model}.yaml", "config/sft.yaml") for model in MODELS},
    "cogvideox_5b inference": ("config/cogvideox_5b.yaml", "config/inference.yaml"),
    "cogvideox1.5_5b inference": ("config/cogvideox1.5_5b.yaml", "config/inference.yaml"),
    "cogvideox1.5_5b_lora inference": ("config/cogvideox1.5_5b_lora.yaml", "config/inference.yaml"),
    "cogvideox1.5_5b_i2v inference": (
        "config/cogvideox1.5_5b_i2v.yaml",
        "config/inference.yaml",
        "args.input_file=pictures.txt",
    ),
    "demo": ("config/tiny/demo.yaml",),
    "demo_lora": ("config/tiny/demo_lora.yaml",),
    "tiny": (f"{TESTS}/tiny.yaml",),
    "tiny_i2v": (f"{TESTS}/tiny_i2v.yaml",),
    "tiny15_i2v": (f"{TESTS}/tiny15_i2v.yaml",),
    "tiny, prompts of a file": (f"{TESTS}/tiny.yaml", "args.input_type=txt", "args.input_file=prompts.txt"),
    "tiny, batch by ranks": (f"{TESTS}/tiny.yaml", "args.global_batch_size=null"),
    "tiny, epochs": (f"{TESTS}/tiny.yaml", "args.train_iters=null", "args.epochs=2"),
    "tiny, formats": (f"{TESTS}/tiny.yaml", "args.export_formats=[peft,sat]", "args.ema_sampling=true"),
}
"""Name -> files of the repo, then overrides."""
VERSIONS = "versions"


class MadeUp(ContentHashes):
    """Contents by the key that names them, so that no file has to be there."""

    def source(self, path: str | os.PathLike[str], key: str = "") -> Source:
        return Source(str(path), f"sha256:{digest(key)}", key=key)

    def save(self) -> None:
        pass


class AnyFolder(dict[str, str]):
    """One fingerprint for all folders of clips."""

    def __contains__(self, folders: object) -> bool:
        return True

    def __missing__(self, folders: str) -> str:
        return digest("folders")


def slices(case: Sequence[str], store: Path) -> dict[str, Slice]:
    """What the main process cuts for a config, with made-up contents of everything that it names."""
    files, overrides = [REPO / word for word in case if "=" not in word], [word for word in case if "=" in word]
    config = load_config(files, overrides, check_files=False)
    place = RunPaths(store, store, ranks=2, experiment="recorded")
    resolver = Resolver(
        config, place, MadeUp(store / "hashes.json"), fingerprints=AnyFolder(), writes=DeferredWrites(held=True)
    )
    if resolver.scans:
        write_sealed(store / "scan" / resolver.scan().key / "digests.json", {name: digest(name) for name in DIGESTS})
    return resolver.all()


def keys(parts: dict[str, Slice]) -> dict[str, list[str]]:
    """Stage -> [item key, job key], with the versions left out, those of the stages upstream too."""
    found: dict[str, list[str]] = {}
    for name, part in parts.items():
        upstream = {above: found[above][not STAGES[above].items] for above in part.identity["upstream"]}
        identity = {key: value for key, value in part.identity.items() if key != "version"} | {"upstream": upstream}
        items = {key: value for key, value in identity.items() if key != "data"}
        found[name] = [key_of(items), key_of(identity)]
    return found


def recorded(case: Sequence[str]) -> dict[str, list[str]]:
    """`keys` of one config, in a folder of its own, where prompts and a picture are."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("prompts.txt").write_text("a wave\n")
        Path("pictures.txt").write_text("a wave@@wave.png\n")
        Path("wave.png").touch()
        return keys(slices(case, Path(folder)))


def versions() -> dict[str, int]:
    """Of every row of the tables."""
    rows = {f"{name} (inference)": stage for name, stage in SAMPLING.items()}
    return {name: stage.version for name, stage in (STAGES | rows | {SWEEP.name: SWEEP}).items()}


@pytest.mark.parametrize("name", CASES)
def test_no_key_has_moved(name: str) -> None:
    assert recorded(CASES[name]) == json.loads(RECORD.read_text())[name], "a store would be made again"


def test_versions_are_those_recorded() -> None:
    assert versions() == json.loads(RECORD.read_text())[VERSIONS], "meant? then: python -m tests.unit.work.test_keys"


def test_the_record_names_every_case_and_no_other() -> None:
    assert set(json.loads(RECORD.read_text())) == {*CASES, VERSIONS}


def write_record() -> None:
    """One line for each stage of each config."""
    lines = json.dumps({VERSIONS: versions()} | {name: recorded(case) for name, case in CASES.items()}, indent=1)
    RECORD.write_text(lines.replace("[\n   ", "[").replace(",\n   ", ", ").replace("\n  ]", "]") + "\n")


if __name__ == "__main__":
    write_record()
