"""Reconcile keys that SAT lets you set in two places, so that both have the same value.

The command line overrides every file, whichever of the two keys it sets; two different values there are an error. Among files,
as upstream: in training the `deepspeed` section overrides `args` (SwissArmyTransformer, arguments.py). If neither
sets the key, upstream's default is used.
"""

from typing import Any

from cogtune.config.check import Checker, FileKey
from cogtune.config.errors import ConfigError
from cogtune.config.geometry import pixel_frames
from cogtune.config.interpolate import lookup
from cogtune.config.pairs import Pairs, get_at, is_set
from cogtune.config.tree import Node, from_plain

_ITERATIONS = 10_000

_PAIRS = (
    ("deepspeed.train_micro_batch_size_per_gpu", "args.batch_size"),
    ("deepspeed.gradient_accumulation_steps", "args.gradient_accumulation_steps"),
    ("deepspeed.optimizer.params.lr", "args.lr"),
    ("deepspeed.optimizer.params.weight_decay", "args.weight_decay"),
    ("deepspeed.zero_optimization.stage", "args.zero_stage"),
)
"""(the key that decides if it is set, the key that decides otherwise)."""


def reconcile(values: dict[str, Any], root: Node, checker: Checker) -> list[str]:
    """Reconcile all such keys in ``values``, in place; return notices. ``root``: the tree as written."""
    pairs = Pairs(values, root, checker)
    notices: list[str] = []
    for strong, weak in _PAIRS:
        notices += pairs.reconcile(strong, weak)
    if values["args"].get("mode") != "inference":
        notices += _precision(pairs)
        notices += _length(values, checker.origin)
        _accumulation(pairs)
    else:
        notices += _sampling(pairs)
    notices += _sample_size(pairs)
    notices += _activations(pairs)
    _steps(pairs)
    notices += _images(values, root, checker.origin)
    notices += _prompts(values, root, checker)
    notices += _lora_mode(pairs)
    _weights_dir(pairs)
    return notices


def _weights_dir(pairs: Pairs) -> None:
    """`model.weights_dir` is the default of args.load. It is not kept: paths are identified by content."""
    key, load = "model.weights_dir", "args.load"
    folder = pairs.values.get("model", {}).pop("weights_dir", None)
    node = lookup(pairs.root, ("model", "weights_dir"))
    if not isinstance(folder, str) or node is None:
        return
    if folder == "":
        pairs.checker.errors.append(ConfigError("expected a path; found an empty string", key=key, mark=node.mark))
    elif lookup(pairs.root, ("args", "load")) is None:
        pairs.follow(load, f"{folder}/transformer", key)
        pairs.checker.files.append(FileKey(load, pairs.get(load), node))


def _precision(pairs: Pairs) -> list[str]:
    """bf16 and fp16: if the deepspeed section sets either, it decides both."""
    names = ("bf16", "fp16")
    strong = any(is_set(pairs.root, f"deepspeed.{name}.enabled") for name in names)
    notices = []
    for name in names:
        switch, flag = f"deepspeed.{name}.enabled", f"args.{name}"
        section, args = pairs.values["deepspeed"].setdefault(name, {}), pairs.values["args"]
        if pairs.refuse_both(flag, switch):
            continue
        if not strong or pairs.only_typed(flag, switch):
            section["enabled"] = args.get(name, False)
            if pairs.typed(flag):
                pairs.checker.origin[switch] = flag
            continue
        if is_set(pairs.root, flag) and args.get(name) != section.get("enabled") and not pairs.typed(switch):
            notices.append(f"{flag}: ignored: in training {switch} decides")
        args[name] = section.get("enabled", False)
        pairs.checker.origin[flag] = switch
    return notices


def _length(values: dict[str, Any], origin: dict[str, str]) -> list[str]:
    args = values["args"]
    if args.get("train_iters", 0) is None and args.get("epochs", 0) is None:
        args["train_iters"] = _ITERATIONS
        return [f"args.train_iters: neither it nor args.epochs is set; using upstream's default, {_ITERATIONS:,} steps"]
    return []


def _accumulation(pairs: Pairs) -> None:
    """The global batch size determines accumulation; a number given on the command line must not be ignored silently."""
    key, total = "deepspeed.gradient_accumulation_steps", "args.global_batch_size"
    typed = key if pairs.typed(key) else "args.gradient_accumulation_steps"
    if pairs.only_typed(typed, total) and is_set(pairs.root, total):
        pairs.refuse(typed, f"{pairs.get(typed)} is ignored when {total} is set ({pairs.get(total)}); set that to null")


_TRAINING_KEYS = (
    "args.train_data",
    "args.valid_data",
    "args.train_iters",
    "args.epochs",
    "args.export_formats",
    "deepspeed",
)


def _sampling(pairs: Pairs) -> list[str]:
    """With mode inference nothing is trained: training-only keys are optional, and ignored with one notice."""
    args, checker = pairs.values["args"], pairs.checker
    unread = [key for key in _TRAINING_KEYS if is_set(pairs.root, key)]
    checker.files = [
        file for file in checker.files if not file.path.startswith(("args.train_data.", "args.valid_data."))
    ]
    if "base" in (args.get("sampling_controls") or []):
        args["sampling_controls"] = [name for name in args["sampling_controls"] if name != "base"]
        unread.append("args.sampling_controls: base")
    return [f"{', '.join(unread)}: ignored: args.mode is inference"] if unread else []


_SAMPLE_KEYS = {"sampling_image_size": "video_size", "sampling_num_frames": "max_num_frames", "sampling_fps": "fps"}
"""Upstream's keys for the sample size -> the keys of `data.params` for the clip size."""


def _sample_size(pairs: Pairs) -> list[str]:
    """The size of clips and samples: from `data.params`, or from upstream's sampling keys if there is no data section."""
    values, sizes = pairs.values, {name: pairs.values["args"].pop(name, None) for name in _SAMPLE_KEYS}
    if sizes["sampling_num_frames"] is not None:
        sizes["sampling_num_frames"] = _frames(values, sizes["sampling_num_frames"])
    if "data" in values:
        return _beside_data(pairs, sizes)
    if values["args"].get("mode") != "inference" or None in sizes.values():
        return []
    params = {ours: sizes[name] for name, ours in _SAMPLE_KEYS.items()}
    checker = Checker()
    values["data"] = checker.component(from_plain({"target": "SFTDataset", "params": params}), "dataset", "data") or {}
    pairs.checker.origin.update(checker.origin)
    for name, ours in _SAMPLE_KEYS.items():
        pairs.checker.origin[f"data.params.{ours}"] = f"args.{name}"
    return []


def _frames(values: dict[str, Any], latents: int) -> int:
    """Pixel frames of that many latent frames. Upstream's number includes the latent frame that only pads to a multiple of
    the patch (1.5: 22 for 81 frames); it gives no pixel frame."""
    patch = (get_at(values, "model.network_config.params.patch_size") or [1])[0]
    return pixel_frames(latents - (patch - 1 if latents % patch == 0 else 0))


def _beside_data(pairs: Pairs, sizes: dict[str, Any]) -> list[str]:
    """Sampling keys when there is a data section: on the command line they override it in mode inference, and are an
    error otherwise."""
    reason, idle = "samples have the size of the training clips (data.params)", []
    inference = pairs.values["args"].get("mode") == "inference"
    for name, ours in _SAMPLE_KEYS.items():
        key, target = f"args.{name}", f"data.params.{ours}"
        if not is_set(pairs.root, key):
            continue
        if not pairs.typed(key):
            idle.append(key)
        elif not inference:
            pairs.refuse(key, f"{reason}; set {target}")
        elif pairs.typed(target) and pairs.get(target) != sizes[name]:
            pairs.refuse(key, f"{target} is {pairs.get(target)}, and both are the same setting; set only one")
        elif isinstance(pairs.get("data.params"), dict) and sizes[name] is not None:
            pairs.follow(target, sizes[name], key)
    return [f"{', '.join(idle)}: ignored: {reason}"] if idle else []


def _activations(pairs: Pairs) -> list[str]:
    """Upstream has this switch twice. In files, true in either one enables it; a policy name takes precedence over true
    and false, and that of `args` over the network's. Afterwards the network's key holds the policy in use."""
    key, inner = "args.checkpoint_activations", "model.network_config.params.transformer_args.checkpoint_activations"
    if pairs.get(inner) is None or pairs.refuse_both(key, inner) or pairs.get(inner) == pairs.get(key):
        return []
    if pairs.only_typed(key, inner) or pairs.only_typed(inner, key):
        strong, decided = key if pairs.typed(key) else inner, False
    else:
        named = [name for name in (key, inner) if pairs.named(name)]
        strong, decided = named[0] if named else key, bool(named)
        if not named and not pairs.get(key):
            return []
    weak = inner if strong == key else key
    pairs.follow(weak, pairs.get(strong), strong)
    overruled = decided and is_set(pairs.root, weak)
    return [f"{weak}: ignored: {strong} names a policy"] if overruled else []


def _steps(pairs: Pairs) -> None:
    """`args.sampling_steps` overrides the number of steps, and the length of the guider's ramp with it."""
    key, own = "args.sampling_steps", "model.sampler_config.params.num_steps"
    ramp = "model.sampler_config.params.guider_config.params.num_steps"
    if not pairs.get(key) or pairs.refuse_both(key, own):
        return
    if pairs.only_typed(own, key):
        pairs.follow(key, None, own)
    elif pairs.get(ramp) is not None and pairs.get(ramp) == pairs.get(own) and not pairs.typed(ramp):
        pairs.follow(ramp, pairs.get(key), key)


def _lora_mode(pairs: Pairs) -> list[str]:
    """`model.lora_train: true` is `not_trainable_prefixes: [all]`."""
    key, prefixes = "model.lora_train", "model.not_trainable_prefixes"
    if not pairs.get(key) or pairs.get(prefixes) == ["all"]:
        return []
    if pairs.only_typed(prefixes, key):
        pairs.follow(key, False, prefixes)
        return []
    if pairs.typed(key) and pairs.typed(prefixes):
        pairs.refuse(prefixes, f"{pairs.get(prefixes)}, but {key} is true, which means [all]; set only one")
        return []
    overruled = is_set(pairs.root, prefixes) and not pairs.typed(key)
    pairs.follow(prefixes, ["all"], key)
    return [f"{prefixes}: ignored: {key} decides"] if overruled else []


_IMAGE_KEYS = (
    "model.noised_image_all_concat",
    "model.noised_image_dropout",
    "model.image_scale_factor",
    "args.image_noise_draws",
)


def _images(values: dict[str, Any], root: Node, origin: dict[str, str]) -> list[str]:
    """Drop the image keys of a text-to-video config; fill in the derived values of an image-to-video one."""
    model = values.get("model", {})
    if not model.get("noised_image_input"):
        for key in _IMAGE_KEYS:
            section, name = key.split(".")
            values.get(section, {}).pop(name, None)
        idle = [key for key in _IMAGE_KEYS if is_set(root, key)]
        return [f"{', '.join(idle)}: ignored: noised_image_input is false"] if idle else []
    if model.get("image_scale_factor", 0) is None:
        scale = model.get("scale_factor") or 1.0
        inverted = get_at(values, "model.network_config.params.ofs_embed_dim") is not None
        model["image_scale_factor"] = 1 / scale if inverted else scale
        origin["model.image_scale_factor"] = "model.scale_factor"
    if values["args"].get("input_type") == "txt" and not is_set(root, "args.image2video"):
        values["args"]["image2video"] = True
        origin["args.image2video"] = "model.noised_image_input"
    return []


def _prompts(values: dict[str, Any], root: Node, checker: Checker) -> list[str]:
    """The prompt file is used only if prompts come from a file."""
    path, kind = "args.input_file", lookup(root, ("args", "input_type"))
    if values["args"].get("input_type") != "txt" or kind is None:
        values["args"]["input_file"] = None
        checker.files = [key for key in checker.files if key.path != path]
        reason = "it is used only with args.input_type: txt"
        return [f"{path}: ignored: {reason}"] if is_set(root, path) else []
    if not is_set(root, path):
        # Report a missing default file at input_type, the key that requires it.
        checker.files.append(FileKey(path, values["args"]["input_file"], kind))
    return []
