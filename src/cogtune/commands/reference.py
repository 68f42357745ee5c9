"""`config/README.md`, `config/schema.json` and `workflow/schemas/config.schema.yaml`, generated from the schema.

`python -m cogtune.commands.reference` writes them, from the root of the repository; a test compares them with what is
committed.
"""

import dataclasses
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from cogtune.commands.jsonschema import json_schema, workflow_schema
from cogtune.config import registry
from cogtune.config.annotate import flow
from cogtune.config.hints import Sections
from cogtune.config.key_types import describe, members
from cogtune.config.optimizers import UNSUPPORTED
from cogtune.config.schema.common import Field, fields_of
from cogtune.config.schema.deepspeed import REFUSED
from cogtune.config.schema.text import EmbedderKeys
from cogtune.config.schema.workflow import WorkflowSection
from cogtune.work.engine_keys import IDENTITY_KEYS, VOLATILE_KEYS

_HEAD = """\
# Configuration

<!-- Generated: `python -m cogtune.commands.reference`. -->

Files: `cogvideox*.yaml` describe the models, `lora.yaml` switches from full fine-tuning to LoRA, `sft.yaml` configures
training, `inference.yaml` sampling. `config.yaml` lists the experiments of the workflow. `tiny/` is the demo, for a CPU.

    cogtune config show    --base config/cogvideox_2b_lora.yaml config/sft.yaml -- args.load=weights/transformer --seed 7
    cogtune config check   --base config/cogvideox_2b_lora.yaml config/sft.yaml
    cogtune config explain deepspeed.optimizer.params.lr

- **Precedence**, highest first: the command line, the last `--base` file, …, the first one, defaults. Mappings are
  merged, lists are replaced (as OmegaConf.merge does).
- **Parents.** `base: [other.yaml, lora.yaml]` in a file merges these files first; paths are relative to the file.
- **References.** `${a.b}` is the value of another key, resolved after merging. Resolvers like `${oc.env:HOME}` are an
  error unless `resolvers:` in `config.yaml` allows them, because merged configs are published.
- **Command line.** `a.b.c=value`, or SAT's `--train-iters 10` for `args.train_iters=10`. Numbers, true, false, null and
  `[lists]` are parsed as YAML; a value with a brace or a colon is a string.
- **Weights.** `cogtune weights get NAME` makes the folders that the model files name. `args.load`, `ckpt_path` and `model_dir`
  also take `hf://OWNER/NAME[@REVISION][/PATH]`, which reads the pin in `weights/pins.json`, never the network
  (`docs/weights.md`).
- **Targets.** Upstream's names and cogtune's are equivalent. YAML never imports code, except packages listed under
  `plugins:` in `config.yaml`.
- **Unknown keys**, wrong types and unsupported values are errors, all reported at once, with file, line and column.

`—` means no default: the key is required. *(ours)* marks keys that upstream does not have.
"""


_WORKFLOW = """\
## config.yaml

The workflow's own file: which experiments there are, and where they run. An experiment is
`name: {base: [file.yaml, …], set: [key=value, …], ranks: N}`; sweeps are in `docs/experiments.md`, `device` and `resources`
in `docs/snakemake.md`. Snakemake's `--config KEY=VALUE` wins over the file.
"""


_ENGINE_KEYS = """## What names a training

Keys of `deepspeed` that are *volatile* may differ from start to start of one training: it goes on from its checkpoint, and
`final/summary.json` has those of its last start (`engine`). Another value of an *identity* key is another training.
"""


def markdown() -> str:
    """All of config/README.md."""
    parts = [_HEAD, _WORKFLOW, _table(WorkflowSection), *_inner(WorkflowSection, "config.yaml")]
    for name, section in fields_of(Sections).items():
        parts.append(f"## {name}\n\n{section.key.doc[0].upper()}{section.key.doc[1:]}.\n")
        if name == "data":
            parts.append("`target` and `params` of:\n")
            parts += _targets("dataset", "###")
            continue
        parts.append(_table(section.type))
        parts += _inner(section.type, name)
        if name == "model":
            for role in _roles():
                parts += _targets(role, "###")
    parts.append(_ENGINE_KEYS)
    sides = (("identity", IDENTITY_KEYS), ("volatile", VOLATILE_KEYS))
    rows = [(side, ", ".join(names), why) for side, keys in sides for why, names in _grouped(keys)]
    parts.append(_rows(("side", "keys of deepspeed", "reason"), rows))
    parts.append("## Ignored\n\nThese keys are accepted and ignored; `config check` lists them.\n")
    parts.append(_by_reason((field.key.without_effect, where) for where, field in _all()))
    parts.append("## Not supported\n\nThe default is accepted; any other value is an error.\n")
    refused = [(field.key.refused, where) for where, field in _all()]
    parts.append(_by_reason(refused + [(why, f"deepspeed.{name}") for name, why in REFUSED.items()]))
    parts.append("### Optimizers\n\nNames that `deepspeed.optimizer.type` refuses, in any case.\n")
    written = {name: why for name, why in UNSUPPORTED.items() if name != name.lower() or "." in name}
    parts.append(_rows(("names", "reason"), [(", ".join(names), why) for why, names in _grouped(written)]))
    return "\n".join(parts)


def _roles() -> list[str]:
    """Roles of targets in registry order, without those that have their own section."""
    roles = dict.fromkeys(entry.role for entry in registry.ENTRIES)
    return [role for role in roles if role not in ("dataset", "optimizer", "autoencoder loss", "weighting")]


def _targets(role: str, level: str) -> list[str]:
    parts = []
    for entry in registry.ENTRIES:
        if entry.role == role:
            aliases = ", ".join(f"`{alias}`" for alias in entry.aliases[:1])
            doc = (entry.schema.__doc__ or "").partition("\n")[0].partition(" Upstream:")[0]
            parts.append(f"{level} {entry.name}\n\n{doc} Target: {aliases} or `{entry.name}`.\n")
            parts.append(_table(entry.schema))
            parts += _inner(entry.schema, entry.name)
            if role == "embedder":
                parts.append("Besides `target` and `params`:\n")
                parts.append(_table(EmbedderKeys))
    return [part for part in parts if part]


def _inner(schema: type, path: str) -> list[str]:
    """Tables of the mappings below ``schema`` that have their own schema."""
    parts = []
    for name, field in fields_of(schema).items():
        inner = [kind for kind in members(field.type) if dataclasses.is_dataclass(kind)]
        inner += [field.key.keys] if field.key.keys else []
        for kind in inner:
            table = _table(typing.cast(type, kind))
            if table:
                parts.append(f"#### {path}.{name}\n\n{table}")
        if schema.__name__ == "DeepSpeedSection" and name == "optimizer":
            for entry in registry.ENTRIES:
                if entry.role == "optimizer":
                    parts.append(f"#### deepspeed.optimizer.params of {entry.name}\n\n{_table(entry.schema)}")
    return parts


def _table(schema: type) -> str:
    rows = [
        (f"`{name}`", field.key.doc, _kind(field), _default(field))
        for name, field in fields_of(schema).items()
        if field.key.has_effect
    ]
    return _rows(("key", "meaning", "type", "default"), rows) if rows else ""


def _grouped(reasons: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """(reason, its keys in backquotes)."""
    for why in dict.fromkeys(reasons.values()):
        yield why, [f"`{name}`" for name, reason in reasons.items() if reason == why]


def _by_reason(keys: Iterable[tuple[str, str]]) -> str:
    """A table of keys grouped by reason; keys without a reason are omitted."""
    grouped: dict[str, list[str]] = {}
    for reason, where in keys:
        if reason:
            grouped.setdefault(reason, []).append(f"`{where}`")
    return _rows(("keys", "reason"), [(", ".join(keys), reason) for reason, keys in grouped.items()])


def _rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in lines)


def _kind(field: Field) -> str:
    key = field.key
    if key.node and field.name != "type":
        return " or ".join(f"`{name}`" for name in registry.names(key.node))
    words = [", ".join(f"`{flow(choice)}`" for choice in key.choices) if key.choices else describe(field.type)]
    words += [f"[{key.items}]"] if key.items else []
    words += [key.unit] if key.unit else []
    words += [str(key.range)] if key.range else []
    return ", ".join(words)


def _default(field: Field) -> str:
    if field.required:
        return "—"
    value = field.default()
    if dataclasses.is_dataclass(value) or (isinstance(value, dict) and not value):
        return ""
    return f"`{value['target'] if isinstance(value, dict) else flow(value)}`"


def _all() -> list[tuple[str, Field]]:
    """Every key once, named by its section or target."""
    fields: dict[str, Field] = {}

    def walk(schema: type, path: str) -> None:
        for name, field in fields_of(schema).items():
            fields.setdefault(f"{path}.{name}", field)
            for kind in members(field.type):
                if dataclasses.is_dataclass(kind):
                    walk(typing.cast(type, kind), f"{path}.{name}")

    for name, section in fields_of(Sections).items():
        if name != "data":
            walk(section.type, name)
    for entry in registry.ENTRIES:
        walk(entry.schema, entry.name)
    walk(EmbedderKeys, "emb_models.*")
    return list(fields.items())


def schema_text() -> str:
    """All of config/schema.json; one definition per line, for readable diffs."""
    schema = json_schema()
    definitions = schema.pop("definitions")
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(body, ensure_ascii=False)}" for name, body in definitions.items()
    )
    return f'{json.dumps(schema)[:-1]},\n"definitions": {{\n{lines}\n}}}}\n'


def workflow_schema_text() -> str:
    """All of workflow/schemas/config.schema.yaml."""
    return yaml.safe_dump(workflow_schema(), sort_keys=False, allow_unicode=True, width=120)


GENERATED = {
    "config/README.md": markdown,
    "config/schema.json": schema_text,
    "workflow/schemas/config.schema.yaml": workflow_schema_text,
}
"""What writes each file, by its path in the repository."""


def write(root: Path) -> None:
    """All of them."""
    for name, text in GENERATED.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    write(Path())
