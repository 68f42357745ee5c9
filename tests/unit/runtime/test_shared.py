"""A store that a group may write to: its mode, the umask in it, and two real users."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.runtime.shared import check_shared, is_shared, let_group_write, make_shared
from cogtune.work.workspace import Workspace
from tests import people


@pytest.fixture
def umask() -> Iterator[None]:
    """Starts with a umask that lets nobody else in, and restores the one before."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


def test_a_new_store_lets_its_group_write(tmp_path: Path, umask: None) -> None:
    store = tmp_path / "a/store"
    make_shared(store)
    assert is_shared(store)
    (store / "latents").mkdir()
    (store / "latents/file").write_text("x")
    assert (mode(store), mode(store / "latents"), mode(store / "latents/file")) == (
        "drwxrws---",
        "drwxrws---",
        "-rw-rw----",
    )


def test_another_store_is_left_as_it_is(tmp_path: Path, umask: None) -> None:
    let_group_write(tmp_path / "absent")
    let_group_write(tmp_path)
    (tmp_path / "file").write_text("x")
    assert mode(tmp_path / "file") == "-rw-------"
    with pytest.raises(UserError, match=r"chgrp -R GROUP .* && chmod -R g\+rwX"):
        make_shared(tmp_path)


def test_the_commands_of_the_message_share_a_store(tmp_path: Path, umask: None) -> None:
    (tmp_path / "store/latents").mkdir(parents=True)
    (tmp_path / "store/latents/file").write_text("x")
    with pytest.raises(UserError) as error:
        check_shared(tmp_path / "store")
    line = str(error.value).partition("run: ")[2].replace("GROUP", str(os.getegid()))
    assert os.system(line) == 0
    check_shared(tmp_path / "store")
    assert mode(tmp_path / "store/latents") == "drwxrws---"


def test_the_setting_is_checked_before_a_run(tmp_path: Path, umask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workflow = tmp_path / "config.yaml"
    workflow.write_text("store_group_writable: true\nexperiments:\n  demo:\n    base: [demo.yaml]\n")
    workspace = Workspace.load(workflow)
    assert not (tmp_path / "store").exists(), "reading a config creates nothing"
    workspace.start()
    assert is_shared(tmp_path / "store")
    assert len(list((tmp_path / "store/roots").iterdir())) == 1
    (tmp_path / "store").chmod(0o755)
    with pytest.raises(UserError, match="store_group_writable"):
        Workspace.load(workflow)


WORK = """
import sys
from pathlib import Path
from cogtune.runtime.atomic import write_text
from cogtune.runtime.failures import explained
from cogtune.runtime.locks import hold_lock
from cogtune.runtime.shared import let_group_write
from cogtune.work.roots import register
store = Path({store!r})
let_group_write(store)
try:
    with explained(), hold_lock(store / "locks" / "latents-0123456789ab.lock"):
        write_text(store / "latents" / "0123456789ab" / "index.json", {text!r})
        register(store, Path("results"))
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


@pytest.mark.heavy
@pytest.mark.parametrize("shared", [True, False])
def test_two_users_on_one_store(shared: bool) -> None:
    if reason := people.refusal():
        pytest.skip(reason)
    with people.someone_can_read() as folder:
        store = folder / "lab/store"
        store.parent.mkdir()
        os.chown(store.parent, people.ALICE, people.GROUP)
        store.parent.chmod(0o2775)
        make = "from pathlib import Path; from cogtune.runtime import shared; import os; os.umask(0o022); store = Path({!r}); {}"
        made = make.format(str(store), "shared.make_shared(store)" if shared else "store.mkdir(); store.chmod(0o755)")
        assert people.as_user(people.ALICE, people.home_of(people.ALICE, folder), made).returncode == 0
        homes = {people.ALICE: folder / f"home{people.ALICE}", people.BOB: people.home_of(people.BOB, folder)}
        code = {user: WORK.format(store=str(store), text=f"of {user}") for user in homes}
        first = people.as_user(people.ALICE, homes[people.ALICE], code[people.ALICE])
        assert first.returncode == 0, first.stderr
        second = people.as_user(people.BOB, homes[people.BOB], code[people.BOB])
        if shared:
            assert second.returncode == 0, second.stderr
            assert (store / "latents/0123456789ab/index.json").read_text() == f"of {people.BOB}"
            assert people.as_user(people.ALICE, homes[people.ALICE], code[people.ALICE]).returncode == 0
            assert len(list((store / "roots").iterdir())) == 2
            assert {path.stat().st_gid for path in store.rglob("*")} == {people.GROUP}
        else:
            line = second.stderr.strip().splitlines()[-1]
            assert line.startswith("UserError: "), second.stderr
            assert "store_dir in config/config.yaml" in line
            assert f"owner {people.ALICE}" in line
