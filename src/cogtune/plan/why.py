"""The reasons why a stage must run: the differences between its slice and an earlier one."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any

from cogtune.config.leaves import leaves_of
from cogtune.config.merge import Config
from cogtune.data.listing import Columns

_LONGEST = 40
_ABSENT = object()


@dataclass(frozen=True)
class Reason:
    """``kind``: key, file, data, upstream, version, never, resume, receipt, shared or publish. ``text``: the message.

    A changed key also has its dotted ``key``, the values before and after, and the origin of the new one. ``causes``: the
    stale stages that cause an upstream reason.
    """

    kind: str
    text: str
    key: str | None = None
    before: Any = None
    after: Any = None
    origin: str | None = None
    causes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; only reasons about a key have the fields of a key."""
        about_key = {"key": self.key, "before": self.before, "after": self.after, "origin": self.origin}
        return {"kind": self.kind, "text": self.text} | (about_key if self.key else {})


def differences(before: Mapping[str, Any], after: Mapping[str, Any], config: Config) -> list[Reason]:
    """The differences of two identities of a stage, without data: values, then the stage version."""
    return [
        *changed_keys(before.get("values") or {}, after.get("values") or {}, config),
        *changed_version(before, after),
    ]


def changed_version(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Reason]:
    """A reason if an update of cogtune changed what the stage writes for the same values."""
    if before.get("version") == after.get("version") and before.get("format") == after.get("format"):
        return []
    versions = f"{before.get('version')} → {after.get('version')}"
    return [Reason("version", f"stage version changed ({versions})")]


def changed_upstream(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the upstream stages whose identity changed, in order."""
    old, new = before.get("upstream") or {}, after.get("upstream") or {}
    return [name for name in old | new if old.get(name) != new.get(name)]


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], config: Config) -> list[Reason]:
    """One reason per changed leaf. Keys that follow another changed key are omitted."""
    was, now = (dict(leaves_of(dict(values))) for values in (old, new))
    changed = [path for path in was | now if was.get(path, _ABSENT) != now.get(path, _ABSENT)]
    names = {".".join(map(str, path)) for path in changed}
    reasons = []
    for path in changed:
        dotted = ".".join(map(str, path))
        origin = _origin(dotted, config)
        if origin not in names:
            reasons.append(_reason(dotted, was.get(path, _ABSENT), now.get(path, _ABSENT), origin, config))
    return reasons


def _origin(dotted: str, config: Config) -> str:
    return config.origin_of(dotted.removeprefix("as_written."))


def _reason(dotted: str, old: Any, new: Any, origin: str, config: Config) -> Reason:
    if _is_content(new) and (_is_content(old) or old in (None, _ABSENT)):
        place = _short(config.files.get(dotted, ""))
        text = f"{dotted}: content changed ({place})" if _is_content(old) else f"{dotted}: now {place} ({origin})"
        return Reason("file", text, dotted, None if old is _ABSENT else old, new, origin)
    words = " → ".join("(absent)" if value is _ABSENT else as_text(value) for value in (old, new))
    note = "" if new is _ABSENT else f" ({origin})"
    was, now = (None if value is _ABSENT else value for value in (old, new))
    return Reason("key", f"{dotted} {words}{note}", dotted, was, now, origin)


def as_text(value: Any) -> str:
    """A value on one line, truncated if long."""
    if _is_content(value):
        return "a file"
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _is_content(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("sha256:")


def _short(path: str) -> str:
    """The path relative to the current directory, if inside it."""
    relative = os.path.relpath(path) if path else path
    return path if relative.startswith("..") else relative


def data_changes(old: Columns, new: Columns, kind: str) -> list[Reason]:
    """The changes between two data sets for a stage that depends on ``kind``: clips, captions, train or pairs."""
    if kind in ("clips", "captions"):
        which = {"clips": 0, "captions": 1}[kind]
        before, after = set(old[which]), set(new[which])
        new_rows, removed = after - before, before - after
        edited = _edited(old, new, new_rows, removed) if kind == "captions" else 0
        return _counted(
            {
                f"new {kind[:-1]}": len(new_rows) - edited,
                f"removed {kind[:-1]}": len(removed) - edited,
                "changed caption": edited,
            }
        )
    splits = ("train",) if kind == "train" else ("valid", "train")
    before, after = _captions(old, splits), _captions(new, splits)
    gone, came = before.keys() - after.keys(), after.keys() - before.keys()
    moved = _trained(old) ^ _trained(new) if kind == "pairs" else set()
    reasons = _counted(
        {
            "new clip": len(came),
            "removed clip": len(gone),
            "changed caption": sum(before.get(clip, caption) != caption for clip, caption in after.items()),
            "clip in another split": len(moved - gone - came),
        }
    )
    return reasons or [Reason("data", "the data set changed")]


def _edited(old: Columns, new: Columns, new_captions: set[str], removed: set[str]) -> int:
    """The number of captions that replace another one of the same clip. Both may belong to several clips."""
    before, after = (dict(zip(columns.clips, columns.captions, strict=True)) for columns in (old, new))
    pairs = {(before[clip], caption) for clip, caption in after.items() if clip in before}
    replaced = {(was, now) for was, now in pairs if was in removed and now in new_captions}
    return min(len({was for was, _ in replaced}), len({now for _, now in replaced}))


def _captions(columns: Columns, splits: Iterable[str]) -> dict[str, str]:
    """Clip -> caption of the given splits; the last split takes precedence."""
    captions: dict[str, str] = {}
    for split in splits:
        rows = zip(columns.clips, columns.captions, strict=True)
        captions.update(compress(rows, map(split.__eq__, columns.splits)))
    return captions


def _trained(columns: Columns) -> set[str]:
    return set(compress(columns.clips, map("train".__eq__, columns.splits)))


def _counted(counts: Mapping[str, int]) -> list[Reason]:
    words = [f"{count:,} {_plural(name, count)}" for name, count in counts.items() if count]
    return [Reason("data", ", ".join(words))] if words else []


def _plural(name: str, count: int) -> str:
    if count == 1:
        return name
    return " ".join(word + "s" if word in ("clip", "caption") else word for word in name.split())
