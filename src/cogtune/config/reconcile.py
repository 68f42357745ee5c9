"""Two keys for one thing: which of them decides, so that both say the same afterwards.

Upstream: in training the `deepspeed` section decides over `args` (SwissArmyTransformer, arguments.py). Where that
section is silent, `args` is asked here, and upstream's own default otherwise.
"""

from typing import Any

from cogtune.config.check import Checker, FileKey
from cogtune.config.interpolate import lookup
from cogtune.config.tree import Node, from_plain

_ITERATIONS = 10_000

_PAIRS = (
    ("deepspeed.train_micro_batch_size_per_gpu", "args.batch_size"),
    ("deepspeed.gradient_accumulation_steps", "args.gradient_accumulation_steps"),
    ("deepspeed.optimizer.params.lr", "args.lr"),
    ("deepspeed.optimizer.params.weight_decay", "args.weight_decay"),
    ("deepspeed.zero_optimization.stage", "args.zero_stage"),
)
"""(the key that decides if it is given, the key that decides otherwise)."""


def couple(values: dict[str, Any], root: Node, checker: Checker) -> list[str]:
    """Makes ``values`` agree with itself, in place; returns notices. ``root`` says which keys were given."""
    origin, notices = checker.origin, []
    for strong, weak in _PAIRS:
        notices += _follow(values, root, origin, strong, weak)
    if values["args"].get("mode") != "inference":
        notices += _precision(values, root, origin)
        notices += _length(values, origin)
    else:
        notices += _sampling(values, root)
    notices += _sample_size(values, root, origin)
    _activations(values, origin)
    _ramp(values, origin)
    notices += _images(values, root, origin)
    _prompts(values, root, checker)
    if values.get("model", {}).get("lora_train"):
        values["model"]["not_trainable_prefixes"] = ["all"]
        origin["model.not_trainable_prefixes"] = "model.lora_train"
    return notices


def given(root: Node, key: str) -> bool:
    """Whether somebody set the key, to something else than null."""
    node = lookup(root, tuple(key.split(".")))
    return node is not None and node.value is not None


def _get(values: dict[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[last] = value


def _follow(values: dict[str, Any], root: Node, origin: dict[str, str], strong: str, weak: str) -> list[str]:
    source, target = (strong, weak) if given(root, strong) else (weak, strong)
    value = _get(values, source)
    if value is None or not isinstance(_get(values, target.rpartition(".")[0]), dict):
        return []
    overruled = source == strong and given(root, weak) and _get(values, weak) != value
    _set(values, target, value)
    if origin.get(source, "default") != "default":
        origin[target] = source
    return [f"{weak}: accepted, without effect here, because {strong} decides"] if overruled else []


def _precision(values: dict[str, Any], root: Node, origin: dict[str, str]) -> list[str]:
    """bf16 and fp16: if the section speaks of either, it decides both."""
    names = ("bf16", "fp16")
    strong = any(given(root, f"deepspeed.{name}.enabled") for name in names)
    notices = []
    for name in names:
        section, flag = values["deepspeed"].setdefault(name, {}), f"args.{name}"
        if not strong:
            section["enabled"] = values["args"].get(name, False)
            continue
        if given(root, flag) and values["args"].get(name) != section.get("enabled"):
            notices.append(
                f"{flag}: accepted, without effect here, because deepspeed.{name}.enabled decides in training"
            )
        values["args"][name] = section.get("enabled", False)
        origin[flag] = f"deepspeed.{name}.enabled"
    return notices


def _length(values: dict[str, Any], origin: dict[str, str]) -> list[str]:
    args = values["args"]
    if args.get("train_iters", 0) is None and args.get("epochs", 0) is None:
        args["train_iters"] = _ITERATIONS
        return [f"args.train_iters: not set, and args.epochs neither, so {_ITERATIONS:,} steps as upstream"]
    return []


_TRAINING_KEYS = ("train_data", "valid_data", "train_iters", "epochs", "export_formats")


def _sampling(values: dict[str, Any], root: Node) -> list[str]:
    """With mode inference nothing is trained: what only a training has is said to be without effect, once."""
    args = values["args"]
    unread = [f"args.{name}" for name in _TRAINING_KEYS if given(root, f"args.{name}")]
    if "base" in (args.get("sampling_controls") or []):
        args["sampling_controls"] = [name for name in args["sampling_controls"] if name != "base"]
        unread.append("args.sampling_controls: base")
    return [f"{', '.join(unread)}: accepted, without effect here, because args.mode is inference"] if unread else []


_SAMPLE_KEYS = ("sampling_image_size", "sampling_num_frames", "sampling_fps")


def _sample_size(values: dict[str, Any], root: Node, origin: dict[str, str]) -> list[str]:
    """`data.params` says how large clips and samples are; without that section upstream's sampling keys do."""
    size, latents, fps = (values["args"].pop(name, None) for name in _SAMPLE_KEYS)
    if "data" in values:
        set_keys = [f"args.{name}" for name in _SAMPLE_KEYS if given(root, f"args.{name}")]
        reason = "samples have the size of the training clips (data.params)"
        return [f"{', '.join(set_keys)}: accepted, without effect here, because {reason}"] if set_keys else []
    if values["args"].get("mode") != "inference" or None in (size, latents, fps):
        return []
    patch = (_get(values, "model.network_config.params.patch_size") or [1])[0]
    # Upstream counts the latent that only pads to a multiple of the patch (1.5: 22 for 81 frames); no frame comes of it.
    frames = 4 * (latents - (patch - 1 if latents % patch == 0 else 0) - 1) + 1
    node = {"target": "SFTDataset", "params": {"video_size": size, "fps": fps, "max_num_frames": frames}}
    checker = Checker()
    values["data"] = checker.component(from_plain(node), "dataset", "data") or {}
    origin.update(checker.origin)
    for name, key in zip(("video_size", "max_num_frames", "fps"), _SAMPLE_KEYS, strict=True):
        origin[f"data.params.{name}"] = f"args.{key}"
    return []


def _activations(values: dict[str, Any], origin: dict[str, str]) -> None:
    """Upstream has the switch twice, and either one turns it on."""
    inner = "model.network_config.params.transformer_args.checkpoint_activations"
    if _get(values, "args.checkpoint_activations") and _get(values, inner) is False:
        _set(values, inner, True)
        origin[inner] = "args.checkpoint_activations"


def _ramp(values: dict[str, Any], origin: dict[str, str]) -> None:
    """`args.sampling_steps` stands for the number of steps, so for the guider's ramp as well, which is as long."""
    sampler = _get(values, "model.sampler_config.params") or {}
    guider, steps = _get(sampler, "guider_config.params") or {}, values["args"].get("sampling_steps")
    if steps and "num_steps" in guider and guider["num_steps"] == sampler.get("num_steps"):
        guider["num_steps"] = steps
        origin["model.sampler_config.params.guider_config.params.num_steps"] = "args.sampling_steps"


_IMAGE_KEYS = (
    "model.noised_image_all_concat",
    "model.noised_image_dropout",
    "model.image_scale_factor",
    "args.image_noise_draws",
)


def _images(values: dict[str, Any], root: Node, origin: dict[str, str]) -> list[str]:
    """A text-to-video config does not have the keys of the image; an image-to-video one has all that follows from it."""
    model = values.get("model", {})
    if not model.get("noised_image_input"):
        for key in _IMAGE_KEYS:
            section, name = key.split(".")
            values.get(section, {}).pop(name, None)
        idle = [key for key in _IMAGE_KEYS if given(root, key)]
        return (
            [f"{', '.join(idle)}: accepted, without effect here, because noised_image_input is false"] if idle else []
        )
    if model.get("image_scale_factor", 0) is None:
        scale = model.get("scale_factor") or 1.0
        inverted = _get(values, "model.network_config.params.ofs_embed_dim") is not None
        model["image_scale_factor"] = 1 / scale if inverted else scale
        origin["model.image_scale_factor"] = "model.scale_factor"
    if values["args"].get("input_type") == "txt" and not given(root, "args.image2video"):
        values["args"]["image2video"] = True
        origin["args.image2video"] = "model.noised_image_input"
    return []


def _prompts(values: dict[str, Any], root: Node, checker: Checker) -> None:
    """The prompt file counts only where prompts come from a file."""
    path, asked = "args.input_file", lookup(root, ("args", "input_type"))
    if values["args"].get("input_type") != "txt" or asked is None:
        values["args"]["input_file"] = None
        checker.files = [key for key in checker.files if key.path != path]
    elif not given(root, path):
        # The default name is asked for by the key that says there is such a file.
        checker.files.append(FileKey(path, values["args"]["input_file"], asked))
