"""The published CogVideoX models: repositories, files, sizes, licences, and the folders that the shipped YAML names.

diffusers' layout is the default: for every family it is in one repository of the Hub, with a sha256 for each large file. Of
SAT's layout the Hub has 1.5 only; 2B and 5B are on a file share of Tsinghua University, without checksums, 2B as zip files.

T5 is downloaded once for all families, as upstream's instructions do it. The file is that of the 2B repository (Apache-2.0):
upstream's CogVideoX1.5-5B-SAT holds the same bytes (equal sha256). Five T5 would be 67 GB instead of 9.5 GB (1.5's
repositories have it in fp32), and captions would be encoded again for each family.

Sizes are those of the Hub's file pages, rounded there to three digits; the Hub's metadata has the exact numbers.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from cogtune.config.hub_paths import is_hub_path

MB = 10**6
_DIFFUSERS_EXTRAS = ("model_index.json", "scheduler/*", "LICENSE*")
"""Small files that make the folder a diffusers pipeline (without T5), and the licence, which goes with the weights."""


@dataclass(frozen=True)
class ClipForm:
    """Clips that a model was published for: (height, width) in pixels, frames, frames per second."""

    size: tuple[int, int]
    frames: int
    fps: int


FIRST = ClipForm((480, 720), 49, 8)
NEWER = ClipForm((768, 1360), 81, 16)
"""Of CogVideoX1.5, whose patches have two frames."""


@dataclass(frozen=True)
class Licence:
    """``name`` as in the metadata of exports; ``link`` to its text; ``note``: one sentence for commercial users."""

    name: str
    link: str
    note: str


@dataclass(frozen=True)
class Download:
    """Files of one repository of the Hub, and the local folder that keeps their paths.

    ``parts``: component -> (folder in the repository, bytes). ``extras``: patterns of small files besides.
    """

    repository: str
    folder: str
    parts: tuple[tuple[str, str, int], ...]
    extras: tuple[str, ...] = ()
    licence: Licence | None = None

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of the files to download, in the syntax of `hf download --include`."""
        return (*(f"{folder}/*" for _, folder, _ in self.parts), *self.extras)

    @property
    def size(self) -> int:
        """Bytes, without the extras."""
        return sum(size for _, _, size in self.parts)

    def path(self, part: str) -> str:
        """The local folder of a component."""
        return next(str(PurePosixPath(self.folder, folder)) for name, folder, _ in self.parts if name == part)


@dataclass(frozen=True)
class PublishedModel:
    """One published family.

    ``name``: in commands; ``title``: as published. ``full``, ``lora``: its YAML files. ``diffusers``, ``sat``: its
    transformer and VAE in both layouts, without T5; ``sat`` is None where the Hub does not have it, then ``sat_lines``
    says how to get it by hand. ``text_encoder``: T5 and its tokenizer.
    """

    name: str
    title: str
    full: str
    lora: str
    licence: Licence
    diffusers: Download
    sat: Download | None
    sat_lines: tuple[str, ...]
    text_encoder: Download

    def downloads(self, layout: str = "diffusers") -> tuple[Download, ...]:
        """What to download for ``layout``: "diffusers" or "sat". Empty if the Hub does not have it."""
        weights = self.diffusers if layout == "diffusers" else self.sat
        return () if weights is None else (weights, self.text_encoder)

    def config_paths(self, layout: str = "diffusers") -> dict[str, str]:
        """Config key -> default path of the weights. The shipped YAML has those of "diffusers"."""
        weights = self.diffusers if layout == "diffusers" else self.sat
        if weights is None:
            transformer, vae = f"{self.diffusers.folder}-sat/transformer", f"{self.diffusers.folder}-sat/{_SAT_VAE}"
        else:
            transformer = weights.path("transformer")
            vae = weights.path("vae") if layout == "diffusers" else f"{weights.folder}/{_SAT_VAE}"
        return {LOAD: transformer, CKPT_PATH: vae, MODEL_DIR: self.text_encoder.folder}


LOAD = "args.load"
CKPT_PATH = "model.first_stage_config.params.ckpt_path"
MODEL_DIR = "model.conditioner_config.params.emb_models.0.params.model_dir"
LAYOUTS = ("diffusers", "sat")
FOLDER = "weights"
"""The folder of all default folders."""
_SAT_VAE = "vae/3d-vae.pt"

APACHE = Licence("Apache-2.0", "https://huggingface.co/zai-org/CogVideoX-2b/blob/main/LICENSE", "commercial use: yes")
COGVIDEOX = Licence(
    "CogVideoX LICENSE",
    "https://huggingface.co/zai-org/CogVideoX-5b/blob/main/LICENSE",
    "commercial use: register at https://open.bigmodel.cn/mla/form first",
)
T5 = Download(
    "zai-org/CogVideoX-2b",
    f"{FOLDER}/t5-v1_1-xxl",
    (("text_encoder", "text_encoder", 4_990 * MB + 4_530 * MB), ("tokenizer", "tokenizer", MB)),
    licence=APACHE,
)
_SHARE = "https://cloud.tsinghua.edu.cn"


def _model(
    title: str, yaml: str, licence: Licence, transformer: int, sat_part: str = "", sat_lines: tuple[str, ...] = ()
) -> PublishedModel:
    name = title.lower()
    diffusers = Download(
        f"zai-org/{title}",
        f"{FOLDER}/{name}",
        (("transformer", "transformer", transformer), ("vae", "vae", 862 * MB)),
        _DIFFUSERS_EXTRAS,
        licence,
    )
    sat = Download(
        "zai-org/CogVideoX1.5-5B-SAT",
        f"{FOLDER}/cogvideox1.5-5b-sat",
        (("transformer", sat_part, 15_100 * MB), ("vae", "vae", 1_180 * MB)),
        ("LICENSE*",),
        licence,
    )
    lines = tuple(line.format(folder=f"{FOLDER}/{name}-sat") for line in sat_lines)
    return PublishedModel(
        name, title, f"config/{yaml}.yaml", f"config/{yaml}_lora.yaml", licence, diffusers, sat if sat_part else None, lines, T5
    )  # fmt: skip


_2B_SAT = (
    "mkdir -p {folder}",
    f"curl -L -o {{folder}}/vae.zip '{_SHARE}/f/fdba7608a49c463ba754/?dl=1'",
    f"curl -L -o {{folder}}/transformer.zip '{_SHARE}/f/556a3e1329e74f1bac45/?dl=1'",
    "unzip {folder}/vae.zip -d {folder}",
    "unzip {folder}/transformer.zip -d {folder}",
)
_5B_SAT = (
    f"download `latest` and `1/mp_rank_00_model_states.pt` (or 1000/…) from {_SHARE}/d/fcef5b3904294a6885e5/",
    "into {folder}/transformer; the VAE is that of cogvideox-2b: its vae.zip gives {folder}/vae/3d-vae.pt",
)
_5B_I2V_SAT = (_5B_SAT[0].replace("fcef5b3904294a6885e5", "5cc62a2d6e7d45c0a2f6"), _5B_SAT[1])

MODELS = {
    model.name: model
    for model in (
        _model("CogVideoX-2b", "cogvideox_2b", APACHE, 3_390 * MB, sat_lines=_2B_SAT),
        _model("CogVideoX-5b", "cogvideox_5b", COGVIDEOX, 9_930 * MB + 1_220 * MB, sat_lines=_5B_SAT),
        _model("CogVideoX-5b-I2V", "cogvideox_5b_i2v", COGVIDEOX, 2 * 4_990 * MB + 1_270 * MB, sat_lines=_5B_I2V_SAT),
        _model(
            "CogVideoX1.5-5B", "cogvideox1.5_5b", COGVIDEOX, 4_980 * MB + 4_950 * MB + 1_220 * MB, "transformer_t2v"
        ),
        _model(
            "CogVideoX1.5-5B-I2V",
            "cogvideox1.5_5b_i2v",
            COGVIDEOX,
            4_980 * MB + 4_950 * MB + 1_220 * MB,
            "transformer_i2v",
        ),
    )
}
"""Name -> model, in the order in which they were published."""


def advice_for(path: str) -> str:
    """What to do if ``path``, as written in a config, does not exist: the command that makes it, or "" for other paths."""
    if is_hub_path(path):
        return f"run `cogtune weights get {path}`"
    if _is_in(path, T5.folder):
        return f"`cogtune weights get NAME` downloads it with a model, NAME one of {', '.join(MODELS)}"
    for layout in LAYOUTS:
        option = "" if layout == LAYOUTS[0] else f" --layout {layout}"
        for model in MODELS.values():
            paths = model.config_paths(layout)
            if _is_in(path, paths[LOAD]) or _is_in(path, paths[CKPT_PATH]):
                return f"run `cogtune weights get {model.name}{option}`"
    return ""


def _is_in(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
