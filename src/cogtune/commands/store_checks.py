"""The checks of `cogtune store verify` for each kind of file in the store, and their repairs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cogtune.data.container import is_whole
from cogtune.data.listing import read_manifest
from cogtune.data.scan import Memo
from cogtune.data.shards import Shard
from cogtune.data.store import INDEX, damaged_rows, has_valid_index, remove_rows, row_ids, shard_paths
from cogtune.errors import UserError
from cogtune.evaluation.sample_figures import read_metrics, read_per_sample
from cogtune.runtime.digest import DIGESTS
from cogtune.runtime.paths import inside, is_key, remove_own
from cogtune.runtime.saved import SUMS, DamagedError, read_sealed
from cogtune.runtime.sums import Comparison, compare_sums, names_checked, rewrite_sums
from cogtune.sampling.prompts import ID_DIGITS
from cogtune.work import roots
from cogtune.work.batches import KEYS as BATCH_KEYS
from cogtune.work.batches import WHAT_TO_DO
from cogtune.work.results import read_index, read_summary
from cogtune.work.slices import read_slice
from cogtune.work.training_log import damaged_lines, drop_damaged_lines

_WITHOUT_ROWS = ("scan", "train", "export")
"""Their folders hold no shards, although those of train and export hold safetensors."""
_OWN = {
    "scan": ("manifest.jsonl", "rejects.jsonl"),
    "train": ("*.safetensors",),
    "export": (),
    "sample": ("videos/*.mp4", "images/*.png"),
    "evaluate": ("clips/*.mp4", "metrics.json", "per_sample.json"),
}
"""The files that a stage must list in its SHA256SUMS. For other stages only the listed files are checked. Other files
in an export's folder belong to the user."""
_REPAIRED = "`cogtune store verify --repair` removes it"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Damage:
    """A problem and its repair. ``rerun``: whether jobs must run again. ``note``: reported, but not counted as damage:
    it affects no result, or the next run recreates it anyway."""

    message: str
    take_out: Callable[[], object] = _nothing
    rerun: bool = True
    note: bool = False


@dataclass(frozen=True)
class Check:
    """A check of ``files``."""

    run: Callable[[], Iterable[Damage]]
    files: tuple[Path, ...] = ()


def store_checks(store: Path, key: str | None) -> Iterator[Check]:
    """Checks of all files outside of key folders. ``key``: only files of this key."""
    for path in sorted((store / "slices").glob("*.json")):
        if is_key(path.stem) and key in (None, path.stem):
            yield Check(partial(_slice, path), (path,))
        elif path.name.endswith(".batch.json") and key is None:
            yield Check(partial(_sealed, path, BATCH_KEYS, WHAT_TO_DO, False), (path,))
    for path in sorted((store / "records").glob("*.json")):
        if key is None or path.stem.endswith(key):
            what = f"it records the cost of an earlier run and is ignored; {_REPAIRED}"
            yield Check(partial(_sealed, path, {}, what, True), (path,))
    if key is None:
        for path in sorted((store / roots.FOLDER).glob("*.json")):
            yield Check(partial(_root, path), (path,))
    if key is None and (hashes := store / "hashes.json").exists():
        what = f"the files in it are hashed again; {_REPAIRED}"
        yield Check(partial(_sealed, hashes, {}, what, True), (hashes,))
    if key is None and (memo := store / "scan" / "memo.jsonl").exists():
        yield Check(partial(_memo, memo), (memo,))


def folder_checks(folder: Path, done: bool) -> Iterator[Check]:
    """Checks of all verifiable files of a key folder. ``done``: its job has a receipt."""
    stage = folder.parent.name
    if not folder.is_dir():
        yield Check(lambda: [Damage(f"{folder}: missing, but it has a receipt")])
        return
    if stage not in _WITHOUT_ROWS:
        yield Check(partial(_index, folder), (folder / INDEX,))
        for path in shard_paths(folder):
            yield Check(partial(_shard, path), (path,))
    if stage in _OWN or (folder / SUMS).exists():
        yield _sums_check(folder, stage)
    if stage in ("sample", "evaluate"):
        yield Check(partial(_views, folder, done))
    if stage == "train":
        for path in sorted(folder.glob("checkpoints/step-*")):
            yield Check(partial(_checkpoint, path), tuple(file for file in path.rglob("*") if file.is_file()))
        for path in sorted(folder.glob("snapshots/*")):
            yield Check(partial(_snapshot, path), tuple(file for file in path.rglob("*") if file.is_file()))
        yield Check(partial(_log, folder, done), (folder / "log.jsonl",))
        if done or (folder / "final/summary.json").exists():
            read = partial(read_summary, folder)
            yield Check(partial(_readable, folder / "final", read), (folder / "final/summary.json",))
    if stage == "export" and (done or (folder / "index.json").exists()):
        yield Check(partial(_exported, folder), (folder / "index.json",))
    if stage == "scan" and (done or (folder / "digests.json").exists()):
        yield Check(partial(_readable, folder, partial(read_manifest, folder / "manifest.jsonl")))
        digests: dict[str, type] = dict.fromkeys(DIGESTS, str)
        for name, keys in (("digests.json", digests), ("report.json", {})):
            read = partial(read_sealed, folder / name, keys, "")
            yield Check(partial(_readable, folder, read), (folder / name,))
    if stage == "evaluate" and (done or (folder / "metrics.json").exists()):
        for name, read in (("metrics.json", read_metrics), ("per_sample.json", read_per_sample)):
            yield Check(partial(_readable, folder / name, partial(read, folder)))


def _slice(path: Path) -> Iterator[Damage]:
    try:
        read_slice(path)
    except UserError as error:
        yield Damage(
            f"{_first(error)}; {_REPAIRED}, and the next run of its experiment rewrites it", path.unlink, False
        )


def _sealed(path: Path, keys: dict[str, type], what_to_do: str, note: bool) -> Iterator[Damage]:
    try:
        read_sealed(path, keys, what_to_do)
    except DamagedError as error:
        yield Damage(str(error), path.unlink, False, note)


def _root(path: Path) -> Iterator[Damage]:
    try:
        roots.read_root(path)
    except DamagedError as error:
        yield Damage(str(error), partial(roots.remove_damaged, path), False)


def _memo(path: Path) -> Iterator[Damage]:
    if count := Memo.damaged_lines(path):
        what = f"{count} lines are damaged or truncated; the next scan reads their files again"
        yield Damage(
            f"{path}: {what}; `cogtune store verify --repair` removes them", partial(Memo.mend, path), False, True
        )


def _index(folder: Path) -> Iterator[Damage]:
    if not has_valid_index(folder):
        path = folder / INDEX
        what = "invalid, or from an earlier version; it is rebuilt from the shards"
        yield Damage(f"{path}: {what}", partial(path.unlink, missing_ok=True), False, True)


def _shard(path: Path) -> Iterator[Damage]:
    try:
        rows, why = damaged_rows(path)
    except UserError as error:  # of another version: not ours to remove
        yield Damage(str(error), rerun=False)
        return
    if rows:
        some = "" if len(rows) == 1 else f" and {len(rows) - 1} more rows"
        yield Damage(f"{why}{some}", partial(remove_rows, path, rows))
    elif why:
        yield Damage(why, path.unlink)


def _sums_check(folder: Path, stage: str) -> Check:
    at = folder / "final" if stage == "train" else folder
    own = [path.relative_to(at).as_posix() for pattern in _OWN.get(stage, ()) for path in sorted(at.glob(pattern))]
    names = names_checked(at, own)
    files = (at / SUMS, *(at / name for name in sorted(names))) if (at / SUMS).exists() else ()
    return Check(partial(_listed, folder, at, own), files)


def _listed(folder: Path, at: Path, own: list[str]) -> Iterator[Damage]:
    """Check the files of a folder against its SHA256SUMS."""
    comparison = compare_sums(at, own)
    if comparison is None:
        return
    if not comparison.intact:
        what = "damaged; `cogtune store verify --repair` rewrites it with the files that its intact lines verify"
        yield Damage(f"{at / SUMS}: {what}", partial(_rewrite, at, comparison), rerun=False)
    for name, why in sorted(comparison.damaged.items()):
        yield Damage(f"{at / name}: {why} ({SUMS})", partial(_forget, folder, at, name, comparison))


def _rewrite(at: Path, comparison: Comparison) -> None:
    if at.is_dir():
        rewrite_sums(at, comparison)


def _forget(folder: Path, at: Path, name: str, comparison: Comparison) -> None:
    """Remove a damaged file of a SHA256SUMS, the data that is only made together with it, and its line."""
    stage = folder.parent.name
    if stage in ("scan", "train"):
        remove_own(at)  # training recreates final/ from its last checkpoint
    elif stage == "export":
        _forget_format_of(folder, name)
    elif stage == "evaluate" and name.startswith("clips/"):
        _forget_clip(folder, at / name)
    else:
        remove_own(at / name)
    _rewrite(at, comparison)


def _views(folder: Path, done: bool) -> Iterator[Damage]:
    """Check that the mp4 of each sample, and of each sampled clip, exists and is complete."""
    sample = folder.parent.name == "sample"
    views = folder / ("videos" if sample else "clips")
    try:
        names = row_ids(folder) if sample else _sampled(folder)
    except DamagedError:
        return  # already reported
    forget = remove_own if sample else partial(_forget_clip, folder)
    missing = sorted(path for name in names if not (path := views / f"{name}.mp4").exists())
    if missing and not done:
        yield Damage(
            f"{folder}: {len(missing)} videos are missing; the job has no receipt, so the next run creates them",
            rerun=False,
            note=True,
        )
    listed = names_checked(folder, ())  # these are verified by checksum
    unlisted = [path for path in sorted(views.glob("*.mp4")) if f"{views.name}/{path.name}" not in listed]
    for path in (*unlisted, *(missing if done else ())):
        if not is_whole(path):
            what = "truncated" if path.exists() else "missing"
            yield Damage(f"{path}: {what}", partial(forget, path))


def _sampled(evaluate: Path) -> set[str]:
    """The names of the clips that have a view; empty if the evaluation is unfinished or damaged."""
    try:
        return {one.sample.clip[:ID_DIGITS] for one in read_per_sample(evaluate) if one.sample.clip}
    except UserError:
        return set()  # reported by its own check


def _forget_clip(folder: Path, view: Path) -> None:
    """Remove the view and the clip's evaluation, which writes the view."""
    for path in shard_paths(folder):
        if gone := [row for row in Shard(path).rows() if row.startswith(view.stem)]:
            remove_rows(path, gone)
    remove_own(view)


def _checkpoint(path: Path) -> Iterator[Damage]:
    from cogtune.train.checkpoint import verify

    try:
        verify(path)
    except (DamagedError, ValueError) as error:
        # Training resumes from the previous checkpoint; a finished training does not need it.
        yield Damage(f"{path}: damaged ({_first(error)}); {_REPAIRED}", partial(remove_own, path), rerun=False)


def _snapshot(path: Path) -> Iterator[Damage]:
    comparison = compare_sums(path, [file.name for file in path.glob("*.safetensors")])
    if comparison is None or not comparison.intact or comparison.damaged or not comparison.proven:
        damaged = ", ".join(sorted(comparison.damaged)) if comparison else ""
        what = f"damaged ({damaged or SUMS}); {_REPAIRED}, and it is not made again"
        yield Damage(f"{path}: {what}", partial(remove_own, path), rerun=False)


def _log(train: Path, done: bool) -> Iterator[Damage]:
    path = train / "log.jsonl"
    lines = damaged_lines(path, done)
    if lines:
        what = f"{len(lines)} damaged lines (first: line {lines[0]}); the loss curve has a gap"
        removed = "`cogtune store verify --repair` removes them; the weights are not affected"
        yield Damage(f"{path}: {what}; {removed}", partial(drop_damaged_lines, path), rerun=False)


def _readable(path: Path, read: Callable[[], object]) -> Iterator[Damage]:
    """Check a file that a stage writes at its end. Training recreates final/ from its last checkpoint."""
    try:
        read()
    except UserError as error:
        if f"{SUMS}: " in str(error):
            return  # reported by its own check
        yield Damage(_first(error), partial(remove_own, path))


def _exported(folder: Path) -> Iterator[Damage]:
    """Check that the index is valid, and that each of its formats exists."""
    path = folder / "index.json"
    try:
        for name, entry in read_index(folder).formats.items():
            if not inside(folder, entry.path, path).exists():
                yield Damage(f"{folder / entry.path}: missing", partial(_forget_format, folder, name))
    except UserError as error:
        yield Damage(_first(error), partial(remove_own, path))


def _forget_format_of(folder: Path, name: str) -> None:
    """Remove the format that the file ``name`` is part of."""
    try:
        formats = read_index(folder).formats
    except UserError:
        formats = {}  # reported by its own check
    for format_name, entry in formats.items():
        if f"{name}/".startswith(f"{entry.path}/"):
            _forget_format(folder, format_name)
    remove_own(folder / name)


def _forget_format(folder: Path, name: str) -> None:
    index = read_index(folder)
    path = inside(folder, index.formats.pop(name).path, folder / "index.json")
    index.write(folder)
    remove_own(path)


def _first(error: Exception) -> str:
    return str(error).split(";")[0]
