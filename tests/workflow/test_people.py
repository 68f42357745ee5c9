"""Two users of one machine on one store that their group may write to: the second makes nothing again."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests import people
from tests.workflow.project import Project, lay_out

pytestmark = [pytest.mark.workflow, pytest.mark.slow]
CONFIG = "ranks: 2\nstore_dir: {store}\n{setting}experiments:\n  tiny:\n    base: [config/tiny.yaml]\n"


def give(user: int, folder: Path) -> None:
    """Let ``user`` own a folder of this test."""
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, user, user, follow_symlinks=False)


def test_a_colleague_makes_nothing_again() -> None:
    """Both have a umask that lets nobody in; only the first has the setting."""
    if reason := people.refusal():
        pytest.skip(reason)
    with people.someone_can_read() as folder:
        lab = folder / "lab"
        lab.mkdir()
        os.chown(lab, people.ALICE, people.GROUP)
        lab.chmod(0o2775)
        homes = {user: people.home_of(user, folder) for user in (people.ALICE, people.BOB)}
        (homes[people.ALICE] / "work").mkdir()
        first = lay_out(homes[people.ALICE] / "work")
        shutil.copytree(first.root, homes[people.BOB] / "work")
        second = Project(homes[people.BOB] / "work")
        for project, setting in ((first, "store_group_writable: true\n"), (second, "")):
            text = CONFIG.format(store=lab / "store", setting=setting)
            (project.root / "config/config.yaml").write_text(text)
        for user, project in ((people.ALICE, first), (people.BOB, second)):
            give(user, homes[user])
            command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock"]
            done = people.run(user, project.root, *command, timeout=600)
            assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]

        made = {name.partition("-")[0]: receipt["made"] for name, receipt in second.receipts().items()}
        assert {stage for stage, count in made.items() if count} == {"scan"}, made
        assert second.metrics() == first.metrics()
        paths = [lab / "store", *(lab / "store").rglob("*")]
        assert [path for path in paths if not path.lstat().st_mode & 0o020 or path.lstat().st_gid != people.GROUP] == []
        gc = [sys.executable, "-m", "cogtune", "store", "gc", "--older-than", "0", "--store", str(lab / "store")]
        done = people.run(0, folder, *gc)
        assert done.returncode == 0, done.stderr
        assert "nothing to remove" in done.stdout
