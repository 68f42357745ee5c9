"""The shipped profiles: what they request, and what works without --cores."""

import re

import pytest
import yaml

from tests.slurm.cluster import Cluster, profile_command
from tests.workflow.project import REPO, Project

PROFILES = ("slurm", "slurm-multinode")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("option", ["-n", "--unlock", "--lint"])
def test_only_looking_needs_no_cores(cluster: Cluster, fresh: Project, profile: str, option: str) -> None:
    before = len(cluster.jobs())
    done = cluster.run(*profile_command(option, profile=profile), cwd=fresh.root)
    assert "number of cores" not in done.stderr
    assert len(cluster.jobs()) == before


def test_each_rule_of_a_profile_exists() -> None:
    text = "".join(path.read_text() for path in (REPO / "workflow/rules").glob("*.smk"))
    rules = set(re.findall(r"^ *(?:rule|checkpoint|use rule \w+ as) (\w+)(?::| with:)", text, re.M))
    for profile in PROFILES:
        content = yaml.safe_load((REPO / "profiles" / profile / "config.yaml").read_text())
        named = {*content["set-resources"], *(line.split("=")[0] for line in content["set-threads"])}
        assert named <= rules, profile


def test_a_run_without_a_device_is_refused(cluster: Cluster, fresh: Project) -> None:
    """`--config` replaces the whole list of the profile."""
    command = profile_command()
    done = cluster.run(*command[: command.index("--config")], "--config", "ranks=2", cwd=fresh.root, check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "device: not set, and this machine has no GPU" in done.stderr
    assert "device=A100" in done.stderr
