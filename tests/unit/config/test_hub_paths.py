"""`hf://…` and the pin file: what is valid, and where it leads."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cogtune.config.errors import ConfigErrors
from cogtune.config.hub_paths import HubPath, Pin, PinnedFile, Pins, local_copy, parse_hub_path
from cogtune.errors import UserError
from cogtune.work.load import load_config

REPO = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = PinnedFile("a" * 64, 3)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://zai-org/CogVideoX-2b", ("zai-org/CogVideoX-2b", "main", "")),
        ("hf://zai-org/CogVideoX1.5-5B/", ("zai-org/CogVideoX1.5-5B", "main", "")),
        ("hf://a/b@v1.0/vae", ("a/b", "v1.0", "vae")),
        (f"hf://a/b@{COMMIT}/x/3d-vae.pt", ("a/b", COMMIT, "x/3d-vae.pt")),
        ("hf://a/b/with space@x.pt", ("a/b", "main", "with space@x.pt")),
    ],
)
def test_valid_paths(text: str, parts: tuple[str, str, str]) -> None:
    assert parse_hub_path(text) == HubPath(*parts)
    assert parse_hub_path(str(HubPath(*parts))) == HubPath(*parts)


@pytest.mark.parametrize(
    "text",
    [
        "hf://", "hf://a", "hf://a/", "hf:///b", "hf://../b", "hf://a/..", "hf://a/b..c", "hf://a/-b", "hf://a/b@", "hf://a/b@../x",
        "hf://a/b@-x", "hf://a/b@a..b", "hf://a/b//etc/passwd", "hf://a/b/../c", "hf://a/b/x/../../../c", "hf://a/b/./c",
        "hf://a/b/.git/config", "hf://a/b/x\\..\\c", "hf://a/b/x\n", "hf://a/b/x\0", "hf://a b/c", "hf://a/b@x y", "hf://ä/b",
        f"hf://a/{'b' * 97}", f"hf://a/b/{'c' * 300}",
    ],
)  # fmt: skip
def test_invalid_paths_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected hf://OWNER/NAME\[@REVISION\]\[/PATH\]"):
        parse_hub_path(text)


def test_pins_are_written_and_read(tmp_path: Path) -> None:
    pins = tmp_path / "weights/pins.json"
    Pins(pins).write("a/b@main", Pin("a/b", COMMIT, {"vae/x.pt": FILE, "vaesque": FILE}))
    Pins(pins).write("a/c@main", Pin("a/c", COMMIT))
    pin = Pins(pins).all["a/b@main"]
    assert list(Pins(pins).all) == ["a/b@main", "a/c@main"]
    assert pin.below("vae") == {"vae/x.pt": FILE}
    assert pin.below("") == pin.files
    assert str(pin.folder) == f"weights/hub/a/b/{COMMIT}"


ENTRY = {"commit": COMMIT, "files": {"x": {"sha256": "a" * 64, "size": 3}}}


def test_pins_written_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    names = [f"a/b{i}@main" for i in range(12)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: Pins(tmp_path / "pins.json").write(name, Pin(name[:-5], COMMIT)), names))
    assert sorted(Pins(tmp_path / "pins.json").all) == sorted(names)
    assert os.listdir(tmp_path) == ["pins.json"]


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", {"format": 2, "pins": {}}, {"format": 1, "pins": []},
        {"format": 1, "pins": {"../../x@main": ENTRY}},
        {"format": 1, "pins": {"a/b@main": ENTRY | {"commit": "../../../../etc"}}},
        {"format": 1, "pins": {"a/b@main": ENTRY | {"files": {"../x": ENTRY["files"]["x"]}}}},
        {"format": 1, "pins": {"a/b@main": ENTRY | {"files": {"x": {"sha256": "a", "size": 3}}}}},
        {"format": 1, "pins": {"a/b@main": ENTRY | {"files": {"x": {"sha256": "a" * 64}}}}},
        {"format": 1, "pins": {"a/b@main": None}},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_pin_file_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=r"pins\.json|expected hf"):
        _ = Pins(path).all


def test_a_copy_must_be_pinned_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"not in weights/pins\.json; run `cogtune weights get hf://a/b/vae`"):
        local_copy("hf://a/b/vae", Pins())
    Pins().write("a/b@main", Pin("a/b", COMMIT, {"vae/x": FILE, "other": FILE}))
    with pytest.raises(UserError, match=rf"vae/x is missing; run .*downloads commit {COMMIT[:12]} again"):
        local_copy("hf://a/b/vae", Pins())
    with pytest.raises(UserError, match=r"not in weights/pins\.json"):
        local_copy("hf://a/b@v2/vae", Pins())
    folder = tmp_path / f"weights/hub/a/b/{COMMIT}/vae"
    folder.mkdir(parents=True)
    (folder / "x").write_text("four")
    with pytest.raises(UserError, match="vae/x has another size than its pin"):
        local_copy("hf://a/b/vae", Pins())
    (folder / "x").write_text("abc")
    copy = local_copy("hf://a/b/vae", Pins())
    assert copy.path == f"weights/hub/a/b/{COMMIT}/vae"
    assert copy.sha256[str(folder / "x")] == FILE.sha256


def test_folders_of_published_models_are_pinned_beside_hub_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config that names weights in such a folder gets the hashes of its files; other writers of the file keep them."""
    monkeypatch.chdir(tmp_path)
    Pins().write_folder("weights/cogvideox-2b", Pin("a/b", COMMIT, {"vae/x.pt": FILE}))
    Pins().write("a/c@main", Pin("a/c", COMMIT))
    assert list(Pins().folders) == ["weights/cogvideox-2b"]
    config = load_config([REPO / "config/cogvideox_2b.yaml", REPO / "config/sft.yaml"], check_files=False)
    assert config.pinned == {str(tmp_path / "weights/cogvideox-2b/vae/x.pt"): FILE.sha256}
    Path("weights/pins.json").write_text('{"format": 1, "pins": {}, "folders": {"weights/cogvideox-2b": {}}}')
    with pytest.raises(ConfigErrors, match="has no repository"):
        load_config([REPO / "config/cogvideox_2b.yaml", REPO / "config/sft.yaml"], check_files=False)
