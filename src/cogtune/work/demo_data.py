"""Which experiments use files of the demo, which the workflow makes (`demo_data: true`)."""

from collections.abc import Sequence
from pathlib import Path

from cogtune.config.errors import ConfigErrors
from cogtune.work.workspace import Workspace

DEMO = Path("data/demo")


def needs_demo_data(workspace: Workspace, names: Sequence[str]) -> bool:
    """Whether one of the experiments, or one that it starts from, names files of the demo. False for a config with errors,
    which its other checks report."""
    waiting, seen = list(names), set[str]()
    while workspace.demo_data and waiting:
        name = waiting.pop()
        if name in seen or name not in workspace.experiments:
            continue
        seen.add(name)
        try:
            config = workspace.check(name)
        except ConfigErrors:
            continue
        if any(Path(path).is_relative_to(DEMO.absolute()) for path in config.files.values()):
            return True
        load = config.values["args"].get("load")
        waiting += [load["experiment"]] if isinstance(load, dict) else []
    return False
