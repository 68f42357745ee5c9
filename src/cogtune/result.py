"""`load_result`: a finished experiment as an object that makes videos."""

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from torch import Tensor

from cogtune.config.schema.common import SAMPLING_STEPS, SEED, STRENGTH
from cogtune.data.images import load_image
from cogtune.errors import UserError
from cogtune.runtime.paths import is_key
from cogtune.sampling.generate import encode_image, samplers
from cogtune.sampling.prompts import own_prompt
from cogtune.sampling.video import write_mp4
from cogtune.stages.job import Job
from cogtune.stages.sampled_models import SampledModels
from cogtune.work.inputs import SampleInput
from cogtune.work.runs import FOLDER, known_runs
from cogtune.work.slices import read_slice

WEIGHTS = ("tuned", "base")


@dataclass(frozen=True)
class Video:
    """``frames_FCHW``: uint8 (F, 3, H, W) in RGB. ``fps``: frames a second."""

    frames_FCHW: Tensor
    fps: float

    def save(self, path: str | PathLike[str]) -> None:
        """Write an mp4 (H.264, visually lossless). Raises UserError for another suffix than .mp4."""
        if Path(path).suffix.lower() != ".mp4":
            raise UserError(f"{path}: videos are saved as .mp4 only")
        write_mp4(Path(path), self.frames_FCHW.permute(0, 2, 3, 1).numpy(), self.fps)


class Result:
    """The models of a finished experiment. They are loaded when they are first used, and kept."""

    def __init__(self, job: Job[SampleInput]) -> None:
        self._job, self._models = job, SampledModels(job)
        self._contexts: dict[str, Tensor] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its videos, in pixels."""
        height, width = self._job.input.video_size
        return height, width

    def generate(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        image: str | PathLike[str] | None = None,
        guided: bool = True,
        steps: int | None = None,
        weights: str = "tuned",
        strength: float = 1.0,
    ) -> Video:
        """A video of ``prompt``, of the size and length that the model was trained for.

        ``seed``: default `args.seed`. The video is the one that the sample stage makes of a prompt file with this one
        line. ``image``: the picture to start from; an image-to-video model needs it, another refuses it. ``guided``: use
        the configured guidance. ``steps`` of the sampler (default: as configured). ``weights``: "tuned", or "base", the
        model before training. ``strength`` multiplies the LoRA of the tuned model; without a LoRA it must be 1, or 0 for
        the model before training. Raises UserError.
        """
        if weights not in WEIGHTS:
            raise UserError(f"weights: {weights!r}; expected one of {', '.join(WEIGHTS)}")
        if weights == "base" and self._models.trained is None:
            raise UserError("weights: this experiment only samples (args.mode: inference); its weights are 'tuned'")
        for name, value, valid in (("seed", seed, SEED), ("steps", steps, SAMPLING_STEPS)):
            if value is not None and (not isinstance(value, int) or value not in valid):
                raise UserError(f"{name}: expected an integer from {valid}; found {value!r}")
        if not isinstance(strength, int | float) or strength not in STRENGTH:
            raise UserError(f"strength: expected a number from {STRENGTH}; found {strength!r}")
        if weights == "base" and strength != 1:
            raise UserError("strength: multiplies the LoRA of the tuned model; leave it out with weights='base'")
        self._check_image(image)
        own = own_prompt(prompt)
        seed = self._job.input.seed if seed is None else seed
        images_BCHW = None
        if image is not None:
            pixels_CHW = load_image(Path(image), self._job.input.video_size)
            images_BCHW = encode_image(self._models.vae, pixels_CHW, seed, own.id)[None]
        chosen = self._models.generator("base") if weights == "base" else self._models.at_strength(strength)
        generator = replace(chosen, seed=seed)
        sampler = samplers(self._job.input.sampler, self._job.input.steps if steps is None else steps)[guided]
        (video_FCHW,) = generator.videos([own.id], self._context(prompt)[None], sampler, images_BCHW)
        return Video(video_FCHW, self._job.input.fps)

    def _check_image(self, image: object) -> None:
        if self._models.takes_images and image is None:
            raise UserError("image: missing; this is an image-to-video model, give the picture to start from")
        if image is not None and not self._models.takes_images:
            raise UserError("image: this is a text-to-video model, which takes no picture")

    def _context(self, prompt: str) -> Tensor:
        if prompt not in self._contexts:
            (self._contexts[prompt],) = self._models.encode([prompt])
        return self._contexts[prompt]


def load_result(folder: str | PathLike[str]) -> Result:
    """The result in ``folder``, a folder of results that holds a report (results/<experiment>).

    Nothing is loaded yet. Raises UserError where there is no report, or the store behind it is gone.
    """
    results = Path(folder)
    samples = results / "samples"
    link = samples if samples.is_symlink() else next((path for path in _listed(samples) if path.is_symlink()), None)
    if link is None:
        raise UserError(f"{results}: no report of an experiment; expected a folder like results/demo, with report.html")
    views = link.resolve() if link == samples else link.resolve().parent  # reports of earlier versions link the folder
    sampled = views.parent  # <store>/sample/<key>/videos
    if not sampled.is_dir() or not is_key(sampled.name):
        raise UserError(f"{link}: leads to {link.resolve()}, which is not in a store; was the store moved?")
    store = sampled.parent.parent
    run = next((path for path, keys in known_runs(results.parent) if sampled.name in keys), None)
    if run is None:
        raise UserError(f"{results.parent / FOLDER}: no run knows the samples {sampled.name}; run snakemake again")
    return Result(Job(read_slice(store / "slices" / f"{sampled.name}.json", run), store))


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
