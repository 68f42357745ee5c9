"""Reads what the stages left in the store and gives it the shape of the page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cogtune.config.stages import STAGES
from cogtune.data.listing import ClipRow
from cogtune.data.store import ShardReader
from cogtune.evaluation.prompts import ID_DIGITS
from cogtune.evaluation.report.evidence import DataFacts, Exported, Shown, StageFacts, Strip
from cogtune.runtime.paths import inside

CLIP = "Training clip"
SHOWN = {"base": "Before training", "tuned": "After training", "guided": "After, guided"}
SAMPLED = {"tuned": "Sample", "guided": "Guided"}
"""The labels where nothing was trained."""


def with_names(rows: Iterable[Mapping[str, Any]], manifest: Iterable[ClipRow]) -> list[dict[str, Any]]:
    """Rows of per_sample.json with the clips' present file names; the store keeps none, since files can be renamed."""
    names = {row.clip: row.name for row in manifest}
    return [
        {**row, "name": names.get(row["clip"]), "nearest_name": names.get(row["nearest"])}
        if "hit" in row
        else dict(row)
        for row in rows
    ]


def strips(
    rows: Sequence[Mapping[str, Any]],
    videos: Path,
    clips: Path | None,
    images: Path,
    labels: Mapping[str, str] = SHOWN,
) -> list[Strip]:
    """One strip for each prompt: the image that the samples start from, the clip, then the variants of ``labels``, as far
    as there is such a file. ``clips``: None where there is no data set."""
    by_prompt: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], {})[row["variant"]] = row
    found = []
    for prompt, variants in by_prompt.items():
        some = next(iter(variants.values()))
        shown = [Shown("First frame given", inside(images, f"{prompt}.png", "per_sample.json"))]
        if some["clip"] and clips is not None:
            shown.append(Shown(CLIP, clips / f"{some['clip'][:ID_DIGITS]}.mp4"))
        for variant, label in labels.items():
            if row := variants.get(variant):
                path = inside(videos, f"{row['item']}.mp4", "per_sample.json")
                shown.append(Shown(label, path, row.get("psnr_db"), row.get("hit"), _stem(row.get("nearest_name"))))
        found.append(
            Strip(some["caption"], _stem(some.get("name")) or prompt, [video for video in shown if video.path.exists()])
        )
    return sorted(found, key=lambda strip: strip.name)


def history(log: Path) -> dict[str, list[dict[str, Any]]]:
    """The training log as ``training`` and ``validation`` rows, each with step and loss; no torn last line."""
    found: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    for row in _json_lines(log):
        if "loss" in row:
            found["training"].append({name: row.get(name) for name in ("step", "loss", "lr")})
        elif "validation_loss" in row:
            found["validation"].append({"step": row["step"], "loss": row["validation_loss"]})
    return found


def stages(records: Path, upstream: Mapping[str, str]) -> list[StageFacts]:
    """Time and memory of each stage, summed over the runs that its job took. ``upstream``: stage -> job key."""
    found = []
    for stage in (name for name in STAGES if name in upstream):
        key = upstream[stage]
        path = records / f"{stage}-{key}.json"
        record = json.loads(path.read_text()) if path.exists() else {}
        found.append(
            StageFacts(stage, key, record.get("seconds"), record.get("runs", 0), record.get("peak_memory_mib"))
        )
    return found


def exports(index: Path) -> list[Exported]:
    """What the export's index.json says."""
    entries = json.loads(index.read_text(encoding="utf-8"))["formats"]
    return [
        Exported(
            name,
            entry["path"],
            entry["bytes"] / 1e6,
            entry["own_error"],
            entry["foreign"]["loader"],
            entry["foreign"].get("max_abs_error_at_one_epsilon"),
            entry["foreign"].get("why", ""),
        )
        for name, entry in entries.items()
    ]


def timings(summary: Mapping[str, Any], stages: Iterable[StageFacts]) -> dict[str, float]:
    """The content of timings.json but for the report's own time. ``summary``: what training left."""
    found = {
        f"train.{name}": round(summary[name], 6)
        for name in ("steps_per_second", "data_wait_fraction")
        if name in summary
    }
    return found | {f"seconds.{row.stage}": row.seconds for row in stages if row.seconds is not None}


def data_facts(
    manifest: Sequence[ClipRow], rejects: Path, frames: ShardReader, encoded: ShardReader, params: Mapping[str, Any]
) -> DataFacts:
    """What is said about the data. ``frames`` and ``encoded``: the rows of preprocess and text."""
    rates, lines = [], _json_lines(rejects)
    refused = [(row["name"], row["reason"]) for row in lines if not row.get("files")]
    used: set[str] = set()
    rows = {row.clip: row for row in manifest}
    for clip, meta in frames.metas(rows):
        if "rejected" in meta:
            refused.append((rows[clip].name, meta["rejected"]))
        else:
            rates.append(meta["effective_fps"])
            used.add(clip)
    captions = {row.caption_id: row.caption for row in manifest}
    height, width = params["video_size"]
    splits = {split: {row.clip for row in manifest if row.split == split} & used for split in ("train", "valid")}
    return DataFacts(
        clips={split: len(clips) for split, clips in splits.items()},
        trained_too=len(splits["train"] & splits["valid"]),
        frames=params["max_num_frames"],
        height=height,
        width=width,
        asked_fps=params["fps"],
        effective_fps=(min(rates), max(rates)) if rates else None,
        rejects=sorted(refused),
        others=[(row["name"], row["reason"]) for row in lines if row.get("files")],
        links=[(row.path, row.target) for row in manifest if row.target],
        truncated=sorted(captions[caption] for caption, meta in encoded.metas(captions) if meta["truncated"]),
    )


def _stem(name: str | None) -> str | None:
    return PurePosixPath(name).stem if name else None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
