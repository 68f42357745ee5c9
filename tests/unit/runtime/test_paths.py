"""Names from outside: keys, folders, and what is removed."""

import os
import shutil
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.runtime.paths import check_name, inside, is_key, leads_into, named_folder, remove_folder, remove_own
from tests.removal import RemovedOutsideError, only_below


@pytest.fixture
def root(tmp_path: Path):
    """A folder ``root`` with a file in it, beside ``kept`` with one; nothing outside of both can be removed."""
    for name in ("root/inner/file", "kept/file"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    with only_below(tmp_path):
        yield tmp_path / "root"
    assert (tmp_path / "kept/file").read_text() == "x"


def test_keys() -> None:
    assert is_key("0123456789ab")
    assert not any(
        map(is_key, ["0123456789a", "0123456789abc", "0123456789aB", "0123456789ab\n", "", None, "١٢٣٤٥٦٧٨٩٠ab"])
    )


def test_names() -> None:
    assert not any(map(check_name, ["demo", "lr-lr_1e-04", "a.b", "-x", "A" * 200]))
    assert all(map(check_name, ["", ".", "..", ".a", "a/b", "über", "a b", "a\n", "a\0", "A" * 201, "²", None, 3]))


def test_a_folder_is_removed_with_its_links_but_not_what_they_lead_to(root: Path) -> None:
    (root / "inner/link").symlink_to(root.parent / "kept")
    remove_folder(root / "inner", root)
    assert root.is_dir()
    assert not (root / "inner").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../kept", "inner/../..", "/", "{kept}", "link", "inner/file", "none", "over/kept"]
)
def test_what_is_not_removed(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "link").symlink_to(root.parent / "kept")
    (root / "over").symlink_to(root.parent)
    removed: list[Path] = []
    monkeypatch.setattr(shutil, "rmtree", removed.append)
    with pytest.raises(UserError, match="nothing was removed"):
        remove_folder(root / name.format(kept=root.parent / "kept"), root)
    assert not removed


def test_the_root_itself_may_be_reached_by_a_link(root: Path) -> None:
    (root.parent / "way").symlink_to(root)
    remove_folder(root.parent / "way/inner", root.parent / "way")
    assert not (root / "inner").exists()


def test_our_own_left_over_may_be_anything(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "kept")
    for name in ("link", "inner", "none"):
        remove_own(root / name)
        assert not os.path.lexists(root / name)


def test_links_are_followed_to_see_where_they_lead(root: Path) -> None:
    (root / "out").symlink_to("/etc/hosts")
    (root / "loop").symlink_to(root / "loop")
    assert leads_into(root / "inner/file", [root])
    assert leads_into(root / "not there", [root.parent / "kept", root])
    assert not any(leads_into(root / name, [root]) for name in ("out", "loop", "..", "/etc", "a\0b"))


def test_nothing_is_written_through_a_link(root: Path) -> None:
    (root / "demo").symlink_to(root.parent / "kept")
    with pytest.raises(UserError, match=r"demo is a symbolic link to .*kept, which cogtune does not write through"):
        named_folder(root, "demo")
    assert named_folder(root, "other") == root / "other"


def test_inside_says_which_file_names_what(root: Path) -> None:
    assert inside(root, "a/b c.txt", "list") == root / "a/b c.txt"
    with pytest.raises(
        UserError, match=r"^list: contains the path '\.\./x'; expected a plain relative path inside .*root"
    ):
        inside(root, "../x", "list")


def test_the_guard_holds(root: Path, tmp_path: Path) -> None:
    """Calls that name nothing which exists: were the guard broken, they would still remove nothing."""
    missing = "/nothing-here-0d1f/file"
    for remove in (os.remove, os.rmdir, os.unlink, shutil.rmtree, lambda path: os.replace(path, tmp_path / "x")):
        with pytest.raises(RemovedOutsideError):
            remove(missing)
    for refused in (Path("/"), Path.cwd(), tmp_path / "none"):
        with pytest.raises(RemovedOutsideError), only_below(refused):
            pass
