"""`cogtune weights get`: download the weights of a published model, or pin and download `hf://…`."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from cogtune.checkpoints.locations import SHARD
from cogtune.checkpoints.published import FOLDER, LAYOUTS, MODELS, Download, PublishedModel
from cogtune.commands.hub_download import HubFile, Listing, download, list_files, missing_bytes
from cogtune.config.hub_paths import FOLDER as FOLDER_OF_HUB
from cogtune.config.hub_paths import PREFIX, HubPath, Pin, PinnedFile, Pins, is_hub_path, parse_hub_path
from cogtune.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of the command. ``to``: folder instead of ``weights/``; ``update``: pin the revision's newest commit."""

    layout: str | None = None
    to: str | None = None
    revision: str | None = None
    dry_run: bool = False
    yes: bool = False
    update: bool = False


@dataclass(frozen=True)
class Job:
    """Files to download from one repository into ``folder``."""

    listing: Listing
    files: tuple[HubFile, ...]
    folder: Path


def run(target: str, options: Options) -> None:
    """Download a published model (its name in `published.MODELS`) or `hf://…`. Raises UserError."""
    if is_hub_path(target):
        _get_hub_path(parse_hub_path(target), options)
        return
    if options.update:
        raise UserError(f"--update is for {PREFIX} paths, which have a pin; remove it")
    if target.lower() not in MODELS:
        raise UserError(
            f"unknown model {target!r}; expected one of {', '.join(MODELS)}, or {PREFIX}OWNER/NAME[@REVISION][/PATH]"
        )
    _get_model(MODELS[target.lower()], options)


def _get_model(model: PublishedModel, options: Options) -> None:
    layout = options.layout or LAYOUTS[0]
    downloads = [_moved(each, options.to) for each in model.downloads(layout)]
    if not downloads:
        _by_hand_only(model)
    pins = Pins()
    known = [(each.repository, pins.folders.get(each.folder)) for each in downloads]
    revisions = [pin.commit if pin and pin.repository == repository else "main" for repository, pin in known]
    revisions[0] = options.revision or revisions[0]
    by_hand = [_hf_line(each, revision) for each, revision in zip(downloads, revisions, strict=True)]
    print(_table(model, layout, downloads))
    print(_free(Path(downloads[0].folder)))
    if options.dry_run:
        print("\n".join(["nothing was downloaded (--dry-run); by hand:", *(f"  {line}" for line in by_hand)]))
        return
    try:
        jobs = []
        for each, revision in zip(downloads, revisions, strict=True):
            listing = list_files(each.repository, revision)
            jobs.append(Job(listing, _complete(each, listing), Path(each.folder)))
        all_hashes = _download_all(jobs, options.yes)
    except UserError as error:
        raise UserError("\n  ".join([f"{error}", "by hand:", *by_hand])) from None
    for each, job, hashes in zip(downloads, jobs, all_hashes, strict=True):
        files = {file.path: PinnedFile(hashes[file.path], file.size) for file in job.files}
        pins.write_folder(each.folder, Pin(each.repository, job.listing.commit, files))
        print(f"{each.folder}: commit {job.listing.commit[:12]}, {len(files)} files, pinned in {pins.path}")
    print(_result(model, layout, options.to))


def _moved(each: Download, to: str | None) -> Download:
    return each if to is None else replace(each, folder=str(Path(to) / PurePosixPath(each.folder).relative_to(FOLDER)))


def _complete(each: Download, listing: Listing) -> tuple[HubFile, ...]:
    """The files to download. Raises UserError if the repository has no files of a component."""
    for name, folder, _ in each.parts:
        if not listing.matching([f"{folder}/*"]):
            raise UserError(f"{each.repository}: has no {folder}/ ({name}) at commit {listing.commit[:12]}")
    return listing.matching(each.patterns)


def _by_hand_only(model: PublishedModel) -> None:
    paths = [f"{key}={path}" for key, path in model.config_paths("sat").items()]
    lines = "\n  ".join([*model.sat_lines, _hf_line(model.text_encoder, "main"), "then set", *paths])
    raise UserError(
        f"{model.name}: the Hub does not have SAT's layout of this model; `cogtune weights get {model.name}` downloads "
        f"diffusers' layout, which cogtune reads as well. By hand, from the authors' file share:\n  {lines}"
    )


def _table(model: PublishedModel, layout: str, downloads: Sequence[Download]) -> str:
    lines = [f"{model.title}, {layout} layout: {size_text(sum(each.size for each in downloads))} in all"]
    for each in downloads:
        lines.append(f"{each.folder}/  from {each.repository}")
        lines += [f"  {folder + '/':18}{size_text(size):>8}  {name}" for name, folder, size in each.parts]
    for each in downloads:
        if each.licence is not None:
            lines.append(f"licence of {each.folder}: {each.licence.name}, {each.licence.link} ({each.licence.note})")
    return "\n".join(lines)


def _hf_line(each: Download, revision: str) -> str:
    include = " ".join(f'--include "{pattern}"' for pattern in each.patterns)
    at = "" if revision == "main" else f"--revision {revision} "
    return f"hf download {each.repository} {at}{include} --local-dir {each.folder}"


def _result(model: PublishedModel, layout: str, to: str | None) -> str:
    paths = model.config_paths(layout)
    if to is not None:
        paths = {key: str(Path(to) / PurePosixPath(path).relative_to(FOLDER)) for key, path in paths.items()}
    if layout == LAYOUTS[0] and to is None:
        return f"done; {model.full} and {model.lora} name these folders"
    return "\n  ".join(["done; set", *(f"{key}={path}" for key, path in paths.items())])


def _get_hub_path(where: HubPath, options: Options) -> None:
    for name, value in (("--layout", options.layout), ("--to", options.to), ("--revision", options.revision)):
        if value is not None:
            advice = f"; write {PREFIX}{where.repository}@{value}" if name == "--revision" else ""
            raise UserError(f"{name} is for the names of published models, not for {PREFIX} paths{advice}")
    print(_free(FOLDER_OF_HUB))
    pins = Pins()
    known = None if options.update else pins.all.get(where.pin)
    listing = list_files(where.repository, known.commit if known else where.revision)
    files = _at(where, listing)
    pin = Pin(where.repository, listing.commit, known.files if known else {})
    state = "pinned" if known else "to be pinned"
    print(f"{where}: commit {listing.commit} ({state}), {len(files)} files, {size_text(sum(f.size for f in files))}")
    print(f"{pin.folder}/")
    for file in files:
        print(f"  {size_text(file.size):>8}  {file.path}")
    print(f"licence: see https://huggingface.co/{where.repository}")
    if options.dry_run:
        print("nothing was downloaded or pinned (--dry-run)")
        return
    (hashes,) = _download_all([Job(listing, files, pin.folder)], options.yes)
    new = {file.path: PinnedFile(hashes[file.path], file.size) for file in files}
    for path, file in new.items():
        if pin.files.get(path, file) != file:
            raise UserError(f"{where}: {path}: not the file that {pins.path} has for this commit; restore the pin file")
    pins.write(where.pin, replace(pin, files=pin.files | new))
    print(f"done; {where} is commit {listing.commit[:12]} in {pins.path}, which belongs beside your config")


def _at(where: HubPath, listing: Listing) -> tuple[HubFile, ...]:
    """The files that make up a path: all of a folder (of a text encoder: also its tokenizer); of a file that is one of
    several parts, its folder; of another file, it and the config files that belong to it."""
    path, names = where.path, {file.path for file in listing.files}
    parent, _, name = path.rpartition("/")
    if path in names and not _names_its_folder(name):
        wanted = [path, *(str(PurePosixPath(parent, each)) for each in ("config.json", "adapter_config.json"))]
        return tuple(file for file in listing.files if file.path in wanted)
    folders = [parent if path in names else path]
    if name == "text_encoder":
        folders.append(str(PurePosixPath(parent, "tokenizer")))
    files = [file for file in listing.files if any(PurePosixPath(file.path).is_relative_to(each) for each in folders)]
    if files and any(PurePosixPath(file.path).is_relative_to(folders[0]) for file in files):
        return tuple(files)
    top = sorted({each.partition("/")[0] + ("/" if "/" in each else "") for each in names})
    raise UserError(f"{where}: no such path at commit {listing.commit[:12]}; the repository has {', '.join(top)}")


def _names_its_folder(name: str) -> bool:
    """Whether a file is one of several that make up its folder."""
    return SHARD.fullmatch(name) is not None or name.endswith(".index.json") or name in ("latest", "model_index.json")


def _download_all(jobs: Sequence[Job], yes: bool) -> list[dict[str, str]]:
    """path -> sha256 for each job. Checks the disk and asks first. Raises UserError."""
    needed = sum(missing_bytes(job.files, job.folder) for job in jobs)
    place = _existing(jobs[0].folder)
    free = shutil.disk_usage(place).free
    print(f"to download: {size_text(needed)}")
    if needed > free:
        raise UserError(
            f"{place}: {size_text(needed)} to download, {size_text(free)} free; free space, or use another disk"
        )
    if needed and not yes:
        if not sys.stdin.isatty():
            raise UserError("not confirmed: standard input is no terminal; add --yes")
        if input("download? [y/N] ").strip().lower() not in ("y", "yes"):
            raise UserError("not confirmed; nothing was downloaded")
    return [download(job.listing, job.files, job.folder) for job in jobs]


def _existing(folder: Path) -> Path:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def _free(folder: Path) -> str:
    place = _existing(folder)
    return f"free on the disk of {place}: {size_text(shutil.disk_usage(place).free)}"


def size_text(size: int) -> str:
    """Decimal, as on the Hub: 11.1 GB, 862 MB."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"
