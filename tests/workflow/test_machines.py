"""Training on two machines by the lines of docs/multinode.md, on two network namespaces: the bytes of one machine."""

import hashlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.machines import Host, missing, two_machines
from tests.workflow.project import REPO, Project, environment

pytestmark = pytest.mark.workflow
FOR_TEST = {
    "--nproc-per-node 8": "--nproc-per-node 1",
    "--ranks 16": "--ranks 2",
    "config/cogvideox_5b.yaml config/sft.yaml": "config/tiny.yaml",
}
"""What the tests change in the lines: the numbers, and the model."""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Host]]:
    if reason := missing():
        pytest.skip(reason)
    with two_machines(tmp_path_factory.mktemp("machines")) as both:
        yield both


@pytest.fixture
def untrained(untouched: Project, tmp_path: Path) -> Project:
    """The tiny project before its training, with an environment in it as `make setup` makes it."""
    root = Path(shutil.copytree(untouched.root, tmp_path / "project", symlinks=True))
    shutil.rmtree(root / "store/train")
    (root / ".venv").symlink_to(sys.prefix)
    return Project(root)


def line_of(program: str) -> str:
    """The line of docs/multinode.md that starts with ``program``, for two machines of one rank."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / "docs/multinode.md").read_text(), re.DOTALL)
    (line,) = [block.replace("\\\n", " ") for block in blocks if block.startswith(f"{program} ")]
    for words, others in FOR_TEST.items():
        line = line.replace(words, others)
    return line


def run(machines: Sequence[Host], lines: Sequence[str], project: Project) -> str:
    values = environment() | {"CUDA_VISIBLE_DEVICES": ""}
    started = [
        machine.popen(["bash", "-c", line], project.root, values)
        for machine, line in zip(machines, lines, strict=False)
    ]
    try:
        output = "\n".join(process.communicate(timeout=300)[0] for process in started)
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), output[-6000:]
    return output


def weights(project: Project) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (project.root / "store/train").glob("*/final/*.safetensors")
    }


def test_torchrun_on_each_of_two_machines(machines: Sequence[Host], untrained: Project, untouched: Project) -> None:
    line = line_of("torchrun")
    assert line.count("--node-rank 0") == 1
    run(machines, [line, line.replace("--node-rank 0", "--node-rank 1")], untrained)
    assert weights(untrained) == weights(untouched)


@pytest.mark.skipif(shutil.which("pdsh") is None, reason="not installed: pdsh (apt-get install pdsh)")
def test_deepspeeds_launcher_with_a_hostfile(machines: Sequence[Host], untrained: Project, untouched: Project) -> None:
    """Once, on the first machine; it starts the ranks by ssh."""
    (untrained.root / "hosts").write_text("".join(f"{machine.name} slots=1\n" for machine in machines))
    output = run(machines[:1], [line_of("deepspeed")], untrained)
    assert "gpu02: " in output, "pdsh names the machine of each line"
    assert weights(untrained) == weights(untouched)
