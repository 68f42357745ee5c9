"""Why a stage has to run, in words: what differs between its slice and the one that ran before."""

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
    """``kind``: key, file, data, upstream, version, never, resume, receipt, shared or publish. ``text``: for people.

    A changed key also has its dotted ``key``, the values before and after, and who set the new one. ``causes``: the stale
    stages that an upstream reason goes back to.
    """

    kind: str
    text: str
    key: str | None = None
    before: Any = None
    after: Any = None
    origin: str | None = None
    causes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON; a reason that is not about a key has no such fields."""
        about_key = {"key": self.key, "before": self.before, "after": self.after, "origin": self.origin}
        return {"kind": self.kind, "text": self.text} | (about_key if self.key else {})


def differences(before: Mapping[str, Any], after: Mapping[str, Any], config: Config) -> list[Reason]:
    """What makes two identities of one stage differ, data aside: own values, then the code, then upstream stages."""
    reasons = changed_keys(before.get("values") or {}, after.get("values") or {}, config)
    if before.get("version") != after.get("version") or before.get("format") != after.get("format"):
        versions = f"{before.get('version')} → {after.get('version')}"
        reasons.append(Reason("version", f"this version of cogtune does {after['stage']} in another way ({versions})"))
    return reasons


def changed_upstream(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the upstream stages whose identity is another one, in order."""
    old, new = before.get("upstream") or {}, after.get("upstream") or {}
    return [name for name in old | new if old.get(name) != new.get(name)]


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], config: Config) -> list[Reason]:
    """One reason for each leaf that differs. A key that only follows another one is left out beside it."""
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
    words = " → ".join("(absent)" if value is _ABSENT else shown(value) for value in (old, new))
    note = "" if new is _ABSENT else f" ({origin})"
    was, now = (None if value is _ABSENT else value for value in (old, new))
    return Reason("key", f"{dotted} {words}{note}", dotted, was, now, origin)


def shown(value: Any) -> str:
    """A value on one line, cut if it is long."""
    if _is_content(value):
        return "a file"
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _is_content(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("sha256:")


def _short(path: str) -> str:
    """Relative to where we are, if it lies below."""
    relative = os.path.relpath(path) if path else path
    return path if relative.startswith("..") else relative


def data_changes(old: Columns, new: Columns, kind: str) -> list[Reason]:
    """What changed between two data sets for a stage that depends on ``kind``: clips, captions, train or pairs."""
    if kind in ("clips", "captions"):
        which = {"clips": 0, "captions": 1}[kind]
        before, after = set(old[which]), set(new[which])
        return _counted({f"new {kind[:-1]}": len(after - before), f"{kind[:-1]} gone": len(before - after)})
    wanted = ("train",) if kind == "train" else ("valid", "train")
    before, after = _captions(old, wanted), _captions(new, wanted)
    gone, came = before.keys() - after.keys(), after.keys() - before.keys()
    moved = _trained(old) ^ _trained(new) if kind == "pairs" else set()
    reasons = _counted(
        {
            "new clip": len(came),
            "clip gone": len(gone),
            "changed caption": sum(before.get(clip, caption) != caption for clip, caption in after.items()),
            "clip in another split": len(moved - gone - came),
        }
    )
    return reasons or [Reason("data", "the data set is another one")]


def _captions(columns: Columns, wanted: Iterable[str]) -> dict[str, str]:
    """Clip -> caption of the splits named; of a clip that is in both, what the last one named says."""
    found: dict[str, str] = {}
    for split in wanted:
        rows = zip(columns.clips, columns.captions, strict=True)
        found.update(compress(rows, map(split.__eq__, columns.splits)))
    return found


def _trained(columns: Columns) -> set[str]:
    return set(compress(columns.clips, map("train".__eq__, columns.splits)))


def _counted(counts: Mapping[str, int]) -> list[Reason]:
    words = [f"{count:,} {_plural(name, count)}" for name, count in counts.items() if count]
    return [Reason("data", ", ".join(words))] if words else []


def _plural(name: str, count: int) -> str:
    if count == 1:
        return name
    return " ".join(word + "s" if word in ("clip", "caption") else word for word in name.split())
