"""results/<experiment>/ while a run goes on: links to what its training writes, from the start of the run."""

from pathlib import Path

from cogtune.runtime.atomic import replace_link, write_text
from cogtune.runtime.paths import named_folder
from cogtune.work.results import SUMMARY

PAGE, LOG, EVENTS = "training.html", "training.log", "tensorboard"
_WAITING = "The training has not started: the stages before it run first."
_WAITING_PAGE = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Training</title></head>
<body><main style="font-family: system-ui, sans-serif; margin: 2rem">
<h1>Training</h1>
<p>{_WAITING} This page loads itself again every 30 seconds.</p>
</main><script>setTimeout(() => location.reload(), 30000);</script></body>
</html>
"""


def training_view(results: Path, key: str, name: str) -> Path:
    """Where the page (`PAGE`), the log (`LOG`) or a link to TensorBoard's files (`EVENTS`) of the training ``key`` is;
    experiments that share it share them."""
    return results / ".logs" / f"train-{key}{Path(name).suffix or f'.{name}'}"


def open_results(results: Path, store: Path, experiment: str, training: str | None) -> Path:
    """Create the folder of ``experiment``, with links to the page, the log and the checkpoints of the training with key
    ``training`` (None: not known before the scan, or nothing is trained). If it is not finished, a page and a log that do
    not exist yet are created. Raises UserError if the folder is a link."""
    folder = named_folder(results, experiment, "experiment")
    folder.mkdir(parents=True, exist_ok=True)
    if training is not None:
        job = store / "train" / training
        waits = not (job / "final" / SUMMARY).exists()
        for name, text in ((PAGE, _WAITING_PAGE), (LOG, f"{_WAITING}\n")):
            view = training_view(results, training, name)
            if waits and not view.exists():
                view.parent.mkdir(parents=True, exist_ok=True)
                write_text(view, text)
        link_training(results, folder, training, job / "checkpoints")
    return folder


def link_training(results: Path, folder: Path, training: str, checkpoints: Path) -> None:
    """Let the links in ``folder`` lead to the page, the log, TensorBoard's files and the ``checkpoints`` of the training.
    A link whose target does not exist is removed: it led to another training. Files that are no links stay."""
    folder.mkdir(parents=True, exist_ok=True)  # a report by hand comes before its folder
    targets = {name: training_view(results, training, name) for name in (PAGE, LOG, EVENTS)} | {
        "checkpoints": checkpoints
    }
    for name, target in targets.items():
        path = folder / name
        if path.exists() and not path.is_symlink():
            continue
        if target.exists():
            replace_link(path, target)
        else:
            path.unlink(missing_ok=True)


def folders_of_training(results: Path, training: str) -> list[Path]:
    """The folders of experiments whose page is that of the training with key ``training``."""
    page = training_view(results, training, PAGE).resolve()
    return [path.parent for path in sorted(results.glob(f"*/{PAGE}")) if path.is_symlink() and path.resolve() == page]
