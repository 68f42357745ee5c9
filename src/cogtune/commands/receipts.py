"""The jobs that write to a folder of the store, their receipts, and the receipts of all downstream jobs."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cogtune.errors import UserError
from cogtune.runtime.paths import is_key
from cogtune.work.parts import PARTS
from cogtune.work.records import read_object
from cogtune.work.runs import known_parts
from cogtune.work.slices import Slice, read_slice
from cogtune.work.stages import STAGES
from cogtune.work.volatile import earlier_volatile


def finished_jobs(store: Path, results: Path) -> dict[str, list[Path]]:
    """Folders of the jobs that have a receipt, by job key.

    If the store has lost a slice, the run files still name the folder of rows. If they are lost too, the folder of a job
    with rows is unknown, and the folder named by its job key, which does not exist, stands for it.
    """
    items_keys = {job.key: job.items for _, part in known_parts(results) for job in part.jobs.values()}
    items_keys |= {part.key: part.items_key for part in _slices(store)}
    folders: dict[str, list[Path]] = {}
    for path in sorted((results / ".receipts").glob("*-*.json")):
        stage, _, key = path.stem.rpartition("-")
        if stage in STAGES and is_key(key):
            folder_key = items_keys.get(key, key) if STAGES[stage].items else key
            folders.setdefault(key, []).append(store / stage / (folder_key if is_key(folder_key) else key))
    return folders


def remove_receipts(store: Path, folder: Path, results: Path) -> list[Path]:
    """Remove the receipts of the jobs that write to ``folder``, and of all downstream jobs; return the removed paths."""
    links = list(_links(store, results))
    unknown = _finished_after(folder.parent.name, results) - {key for key, _ in links}
    jobs = _with_downstream(jobs_in(store, folder, results) | unknown, links)
    receipts = [path for name in jobs for path in _receipts(results, name)]
    for path in receipts:
        path.unlink()
    return receipts


def jobs_in(store: Path, folder: Path, results: Path) -> set[str]:
    """Keys of the jobs that write to a folder: the job of its name, or all jobs that share its rows.

    A finished job of the stage without a valid slice may be one of them, so it is included: rerunning it is cheap.
    """
    stage, key = folder.parent.name, folder.name
    slices = {part.key: part for part in _slices(store)}
    jobs = {part.key for part in slices.values() if part.stage == stage and key in (part.key, part.items_key)}
    finished = {path.stem.rpartition("-")[2] for path in (results / ".receipts").glob(f"{stage}-*.json")}
    return jobs | (finished - slices.keys())


def _finished_after(stage: str, results: Path) -> set[str]:
    """Keys of the finished jobs of later stages, the published reports included. If no run file or record names the
    upstream jobs of one, it may be downstream of any earlier job."""
    later = list(STAGES)[list(STAGES).index(stage) + 1 :]
    receipts = [path.stem.rpartition("-") for path in (results / ".receipts").glob("*-*.json")]
    published = {path.name.removeprefix(".published-") for path in results.glob("*/.published-*")}
    return {key for name, _, key in receipts if name in later} | published


def _with_downstream(keys: set[str], links: list[tuple[str, set[str]]]) -> set[str]:
    """Job keys with those of all downstream jobs."""
    reached = set(keys)
    while True:
        more = {key for key, upstream in links if reached & upstream}
        if more <= reached:
            return reached
        reached |= more


def _links(store: Path, results: Path) -> Iterator[tuple[str, set[str]]]:
    """(job key, keys of its upstream jobs), from the runs of this results folder, the records of finished jobs, and the
    run files that earlier versions kept in the store."""
    parts = list(known_parts(results))
    earlier = [(path.stem.rpartition("-")[2], read_object(path).get("run")) for path in store.glob("records/*.json")]
    earlier += [(path.name.partition(".")[0], read_object(path)) for path in store.glob("slices/*.volatile.json")]
    parts += [(key, earlier_volatile(run)) for key, run in earlier]
    for key, part in parts:
        yield key, {job.key for job in part.jobs.values()}


def _receipts(results: Path, key: str) -> list[Path]:
    receipts = [
        *(results / ".receipts").glob(f"*-{key}.json"),
        *(results / ".receipts" / PARTS).glob(f"*-{key}.*.json"),
    ]
    receipts += [*results.glob(f"*/.published-{key}")]
    return sorted(path for path in receipts if not path.parent.is_symlink())


def _slices(store: Path) -> Iterator[Slice]:
    """All valid slices; `store verify` reports damaged ones."""
    for path in sorted((store / "slices").glob("*.json")):
        if is_key(path.stem):
            with suppress(UserError):
                yield read_slice(path)
