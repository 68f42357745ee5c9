"""`load_config`: merge and check config files and command line overrides."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cogtune.checkpoints.fit import weight_problems
from cogtune.checkpoints.locations import place_of
from cogtune.checkpoints.published import advice_for
from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.merge import Config, check, mark_of, order_of, read
from cogtune.config.tree import Node
from cogtune.errors import UserError

_WEIGHTS = ("args.load", "model.first_stage_config.params.ckpt_path")


def load_config(
    paths: Iterable[str | Path] | str | Path,
    overrides: Sequence[str] = (),
    *,
    check_files: bool = True,
    partial: bool = False,
    resolvers: Collection[str] = (),
    may_miss: Collection[str] = (),
) -> Config:
    """Merge SAT-style YAML files, left to right, then ``overrides``; check everything; fill in defaults.

    ``overrides``: `a.b.c=value` or SAT's `--train-iters 10`. ``check_files``: files in the config must exist,
    and weights must fit the config. ``partial``: the model or the data section may be missing.
    ``resolvers``: OmegaConf resolvers that values may use (`${oc.env:HOME}`), see `interpolate.RESOLVERS`.
    ``may_miss``: kinds of files (`config.paths`) that need not exist; `Config.missing` lists them. Raises
    ConfigErrors with all errors, each with file, line, column and key.
    """
    root = read(paths, overrides, resolvers)
    return _with_weights(check(root, check_files, partial, may_miss, advice_for), root, check_files)


def _with_weights(config: Config, root: Node, check_files: bool) -> Config:
    """The config with the path of each set of weights resolved to its folder, so that its hash covers all files of the set."""
    files, problems = dict(config.files), list[tuple[str, str]]()
    for key in _WEIGHTS:
        if key in files and Path(files[key]).exists():
            try:
                files[key] = str(place_of(Path(files[key])))
            except UserError as error:
                problems.append((key, str(error)))
    if check_files and not problems:
        problems = weight_problems(config.values, files)
    if problems:
        errors = [ConfigError(text, key=key, mark=mark_of(root, key)) for key, text in problems]
        raise ConfigErrors(sorted(errors, key=order_of))
    return replace(config, files=files)
