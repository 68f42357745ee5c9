"""Names for people, in results/<experiment>/, of files that the store names by digests: 01-wave_tuned.mp4."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cogtune.evaluation.sample_figures import SampleFigures
from cogtune.runtime.slugs import slug
from cogtune.sampling.prompts import ID_DIGITS


def sample_names(figures: Sequence[SampleFigures]) -> dict[str, str]:
    """Row of a sample -> its file name: number of the prompt, name of its clip or words of the prompt, variant."""
    titles = _titles(figures)
    return {row.sample.item: f"{titles[row.sample.prompt]}_{row.sample.variant}.mp4" for row in figures}


def clip_names(figures: Sequence[SampleFigures], clips: Path) -> dict[str, Path]:
    """File name -> file in ``clips``, for the clips whose captions were sampled."""
    titles, files = _titles(figures), dict[str, Path]()
    for row in figures:
        if row.sample.clip is not None:
            files[f"{titles[row.sample.prompt]}_clip.mp4"] = clips / f"{row.sample.clip[:ID_DIGITS]}.mp4"
    return files


def _titles(figures: Sequence[SampleFigures]) -> dict[str, str]:
    """Prompt -> number and words, in the order of the page."""
    prompts = {row.sample.prompt: row for row in figures}
    ordered = sorted(prompts, key=lambda prompt: (PurePosixPath(prompts[prompt].clip_name or prompt).stem, prompt))
    width = max(2, len(str(len(ordered))))
    return {prompt: f"{i:0{width}d}-{_words(prompts[prompt])}" for i, prompt in enumerate(ordered, 1)}


def _words(row: SampleFigures) -> str:
    return slug(PurePosixPath(row.clip_name).stem if row.clip_name else row.sample.caption, "clip")
