"""What a cluster has, read from the output of scontrol, and what a profile asks of it."""

import math
from pathlib import Path

import pytest

from cogtune.doctor.profile import (
    OTHERS,
    Profile,
    megabytes_of,
    minutes_of,
    profile_checks,
    read_profile,
    rule_check,
    rules_of,
)
from cogtune.doctor.slurm import (
    Slurm,
    accounting_check,
    parse_gpus,
    parse_minutes,
    partition_check,
    read_slurm,
    slurm_checks,
)
from cogtune.errors import UserError
from cogtune.work.stages import STAGES
from tests.unit.doctor.conftest import Install
from tests.unit.doctor.outputs import scontrol

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def slurm(install: Install) -> Slurm:
    install("scontrol", scontrol())
    read = read_slurm()
    assert isinstance(read, Slurm)
    return read


def test_partitions_and_nodes_are_read(slurm: Slurm) -> None:
    assert slurm.version == "23.11.4"
    assert [one.name for one in slurm.partitions] == ["cpu", "gpu", "old"]
    cpu, gpu, old = slurm.partitions
    assert slurm.default == cpu
    assert (cpu.limit, gpu.limit, old.limit) == (7 * 1440, 1440, math.inf)
    assert (cpu.up, gpu.up, old.up) == (True, True, False)
    assert [(node.name, node.cpus, node.memory, node.gpus, node.usable) for node in (*cpu.nodes, *gpu.nodes)] == [
        ("c1", 32, 128000, {}, True),
        ("c2", 32, 128000, {}, False),
        ("g1", 128, 1000000, {"a100": 8}, True),
        ("g2", 128, 1000000, {"a100": 8}, True),
        ("g3", 128, 500000, {"v100": 4}, True),
    ]
    assert "1 of 2 nodes usable" in partition_check(cpu).text
    assert "4 GPUs v100 or 8 GPUs a100 a node; at most 1440 minutes" in partition_check(gpu).text
    assert partition_check(old).level == "WARN"


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", {}),
        ("gpu:2", {"": 2}),
        ("gpu", {"": 1}),
        ("gpu:a100", {"a100": 1}),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1)", {"nvidia_h100_80gb_hbm3": 8}),
        ("gpu:a100:4(S:0,3),gpu:2,shard:8", {"a100": 4, "": 2}),
        ("gpu:1g.10gb:7,lustre:1", {"1g.10gb": 7}),
        ("gres/gpu:2", {"": 2}),
    ],
)
def test_gres(gres: str, gpus: dict[str, int]) -> None:
    assert parse_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("text", "minutes"), [("UNLIMITED", math.inf), ("1-00:00:00", 1440), ("12:30:00", 750), ("00:00:30", 0.5)]
)
def test_time_limits(text: str, minutes: float) -> None:
    assert parse_minutes(text) == minutes


def test_requests_are_read_as_snakemake_reads_them() -> None:
    assert [minutes_of(value) for value in (90, "90", "'90'", "2h", "1d12h", "45 min")] == [90, 90, 90, 120, 2160, 45]
    assert minutes_of("attempt * 60") is None
    assert [
        megabytes_of(*pair) for pair in ((500, None), (None, "16GB"), (None, "'512 MiB'"), ("8000 * attempt", None))
    ] == [
        500,
        16000,
        512,
        None,
    ]


@pytest.mark.parametrize(
    ("wanted", "level", "words"),
    [
        ({}, "OK", "fits partition cpu: its requests come from"),
        ({"slurm_partition": "gpu", "gres": "'gpu:8'", "mem_mb": 900000, "runtime": "1d"}, "OK", "fits partition gpu"),
        ({"slurm_partition": "gpu", "gres": "gpu:a100:8", "nodes": 2, "tasks": 16}, "OK", "fits"),
        ({"slurm_partition": "gpu", "gpu": 16, "nodes": 2}, "OK", "fits"),
        ({"slurm_partition": "gpu", "gpu": 16}, "FAIL", "16 GPUs a node: partition gpu has no node with that"),
        ({"slurm_partition": "gpu", "gres": "gpu:v100:4", "nodes": 2}, "FAIL", "fewer than 2 nodes"),
        ({"slurm_partition": "gpu", "gres": "gpu:h100:1"}, "FAIL", "gpu:a100:8, gpu:v100:4"),
        ({"slurm_partition": "gpu", "gres": "gpu:v100:4", "mem_mb": 600000}, "FAIL", "600000 MB of memory"),
        ({"slurm_partition": "gpu", "nodes": 3}, "FAIL", "nodes is 3; partition gpu allows 2"),
        ({"slurm_partition": "gpu", "runtime": 1441}, "FAIL", "runtime is 1441 minutes; partition gpu allows 1440"),
        ({"slurm_partition": "gpu", "constraint": "h100"}, "FAIL", "feature h100"),
        ({"slurm_partition": "cpu", "gres": "gpu:1"}, "FAIL", "no GPU"),
        ({"slurm_partition": "cpu", "nodes": 2}, "FAIL", "down or drained"),
        ({"slurm_partition": "cpu", "threads": 33}, "FAIL", "33 CPUs a node"),
        ({"slurm_partition": "cpu", "cpus_per_task": 8, "tasks": 5}, "FAIL", "40 CPUs a node"),
        ({"slurm_partition": "old"}, "FAIL", "partition old is not up"),
        ({"slurm_partition": "gpus"}, "FAIL", "partition gpus does not exist"),
        ({"slurm_partition": "cpu,gpu", "gres": "gpu:1"}, "OK", "fits partition cpu, gpu"),
        ({"slurm_partition": "'gpu' if attempt > 1 else 'cpu'"}, "OK", "not checked"),
        ({"mem_mb": "attempt * 8000"}, "OK", "fits"),
    ],
)
def test_requests_of_a_rule(slurm: Slurm, wanted: dict[str, object], level: str, words: str) -> None:
    check = rule_check("train", wanted, slurm)
    assert (check.level, words in check.text, bool(check.fix)) == (level, True, level != "OK"), check


@pytest.mark.parametrize(
    ("accounting", "sacct", "age", "status", "no_account", "level"),
    [
        ("none", "exit 1", 300, "", False, "FAIL"),
        ("none", "exit 1", 300, "squeue", True, "OK"),
        ("none", "exit 1", 300, "squeue", False, "WARN"),
        ("none", "exit 1", 60, "squeue", True, "FAIL"),
        ("slurmdbd", "exit 0", 60, "", False, "OK"),
        ("slurmdbd", "echo 'sacct: error: connection refused' >&2; exit 1", 300, "", False, "FAIL"),
        ("slurmdbd", "exit 1", 300, "squeue", False, "OK"),
    ],
)
def test_accounting(
    install: Install, accounting: str, sacct: str, age: int, status: str, no_account: bool, level: str
) -> None:
    install("scontrol", scontrol(accounting, age))
    install("sacct", sacct)
    read = read_slurm()
    assert isinstance(read, Slurm)
    check = accounting_check(read, status, no_account, has_profile=True)
    assert check.level == level, check
    if level == "FAIL" and age == 300:
        assert "slurm-status-command: squeue" in check.fix


def test_no_slurm_is_a_fault_only_for_a_profile_that_needs_it(bare_path: None) -> None:
    assert read_slurm() == ""
    assert [check.level for check in slurm_checks("", wanted=False)] == ["OK"]
    assert [check.level for check in slurm_checks("", wanted=True)] == ["FAIL"]


def test_a_slurm_that_does_not_answer(install: Install) -> None:
    install("scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1")
    reason = read_slurm()
    assert reason == "slurm_load_ctl_conf error: Unable to contact slurm controller"


@pytest.mark.parametrize(
    ("body", "ranks", "level", "words"),
    [
        ({}, 8, "OK", "gpu=8"),
        ({}, 9, "FAIL", "9 GPUs a node"),
        ({"gres": "gpu:4"}, 9, "OK", "gres=gpu:4"),
        ({"nodes": 2, "tasks": 16, "gpu": 0, "gres": "gpu:8"}, 16, "OK", "tasks=16"),
        ({"nodes": 2, "tasks": 8, "gpu": 0, "gres": "gpu:8"}, 16, "FAIL", "tasks is 8, but training has 16 ranks"),
    ],
)
def test_what_a_rule_requests_itself_is_checked_too(
    slurm: Slurm, body: dict[str, object], ranks: int, level: str, words: str
) -> None:
    """Training asks for one GPU a rank, other GPU stages for one; a profile may name other numbers."""
    defaults = {"slurm_partition": "gpu"}
    profile = Profile(Path("config.yaml"), "slurm", "", False, {OTHERS: defaults, "train": defaults | body}, ranks)
    rules = {"train": True, "text": True, "scan": False}
    checks = {check.name: check for check in profile_checks(profile, slurm, rules, 1)}
    assert checks.keys() == {OTHERS, "train", "text"}
    assert (checks["train"].level, words in checks["train"].text) == (level, True), checks["train"]
    assert (checks["text"].level, "gpu=1" in checks["text"].text) == ("OK", True)


def test_a_job_that_gathers_needs_no_gpu(slurm: Slurm) -> None:
    """cpu has no GPU. Where nothing cuts a stage, its own job does the work."""
    resources = {OTHERS: {}, "latents": {"slurm_partition": "cpu"}, "text": {"slurm_partition": "cpu"}}
    profile = Profile(Path("config.yaml"), "slurm", "", False, resources, gathers=frozenset({"latents"}))
    levels = {one.name: one.level for one in profile_checks(profile, slurm, {"latents": True, "text": True}, 1)}
    assert (levels["latents"], levels["text"]) == ("OK", "FAIL")


def test_rules_of_this_workflow() -> None:
    rules = rules_of(REPO / "workflow")
    assert (rules["train"], rules["latents"], rules["scan"], rules["report"]) == (True, True, False, False)
    assert {f"{name}_part": rules[name] for name, stage in STAGES.items() if stage.parts}.items() <= rules.items()


PROFILES = {
    "mappings": """
executor: slurm
slurm-status-command: squeue
slurm-no-account: true
default-resources: {slurm_partition: cpu, runtime: 60}
set-resources: {train: {gres: "'gpu:8'", slurm_partition: gpu}}
set-threads: {train: 8}
set-scatter: {latents: 8, text: 1}
""",
    "lists": """
executor: slurm
slurm_status_command: squeue
slurm_no_account: true
default-resources: [slurm_partition=cpu, runtime=60]
set-resources: ["train:gres='gpu:8'", "train:slurm_partition=gpu"]
set-threads: [train=8]
set-scatter: [latents=8, text=1]
""",
}


@pytest.mark.parametrize("form", PROFILES)
def test_both_forms_of_a_profile(tmp_path: Path, form: str) -> None:
    (tmp_path / "config.yaml").write_text("executor: local\n")
    (tmp_path / "config.v9+.yaml").write_text(PROFILES[form])
    profile = read_profile(tmp_path)
    assert (profile.executor, profile.status_command, profile.no_account) == ("slurm", "squeue", True)
    plain = {rule: {name: str(value) for name, value in body.items()} for rule, body in profile.resources.items()}
    assert plain == {
        OTHERS: {"slurm_partition": "cpu", "runtime": "60"},
        "train": {"slurm_partition": "gpu", "runtime": "60", "gres": "'gpu:8'", "threads": "8"},
    }
    assert profile.gathers == {"latents"}


def test_a_rule_that_does_not_exist(slurm: Slurm) -> None:
    profile = Profile(Path("config.yaml"), "slurm", "squeue", True, {OTHERS: {}, "trian": {}, "train": {}})
    levels = {check.name: check.level for check in profile_checks(profile, slurm, {"train": False, "text": False}, 1)}
    assert levels == {OTHERS: "OK", "trian": "FAIL", "train": "OK"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("executor: [", "cannot be read"),
        ("slurm", "expected options"),
        ("set-resources: [train=3]", "expected rule:resource=value"),
        ("default-resources: [cpu]", "name=value"),
    ],
)
def test_a_bad_profile_is_one_error(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_profile(tmp_path)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        read_profile(tmp_path / "absent")


def test_the_shipped_profiles_are_read() -> None:
    for folder in sorted((REPO / "profiles").iterdir()):
        profile = read_profile(folder)
        assert profile.executor in ("local", "slurm")
        without_gpu = {rule for rule, body in profile.resources.items() if body.get("slurm_partition") == "cpu"}
        computing = {rule for rule, on_gpu in rules_of(REPO / "workflow").items() if on_gpu and rule in without_gpu}
        assert computing == profile.gathers - {"preprocess"}, folder
        assert profile.resources.keys() - {OTHERS} <= rules_of(REPO / "workflow").keys(), folder
