"""What a plan assumes because it is not there yet: weights that are not on disk, and clips."""

from cogtune.checkpoints.published import advice_for
from cogtune.config.merge import Config
from cogtune.config.paths import DATA, kind_of
from cogtune.runtime.paths import quoted

_NAMES = (
    ("args.load", "weights"),
    (".ckpt_path", "VAE"),
    (".model_dir", "text encoder"),
)


def assumptions(config: Config, clips: int | None) -> list[str]:
    """One line for the missing files of a config, and one for assumed clips."""
    lines = list[str]()
    missing = {key: path for key, path in config.missing.items() if kind_of(key) != DATA}
    if missing:
        names = ", ".join(f"{_name(key)} {quoted(path)} ({key})" for key, path in missing.items())
        lines.append(
            f"missing: {names}. Sizes are those of the YAML{_text_encoder(config)}; a run needs these files{_how_to_get(missing)}"
        )
    if clips is not None:
        lines.append(f"args.train_data: not read; {clips:,} clips and captions are assumed (--clips)")
    return lines


def _how_to_get(missing: dict[str, str]) -> str:
    """The commands that make the missing default folders; that of a model also makes the text encoder's."""
    commands = dict.fromkeys(text for path in missing.values() if (text := advice_for(path)).startswith("run "))
    return "".join(f": {command}" for command in commands)


def _name(key: str) -> str:
    return next((name for part, name in _NAMES if key == part or key.endswith(part)), "file")


def _text_encoder(config: Config) -> str:
    return ", and of T5-v1.1-XXL" if any(key.endswith(".model_dir") for key in config.missing) else ""
