"""The whole tiny workflow by the shipped profile: the bytes of a local run, whatever happens to its config meanwhile."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from cogtune.data.shards import Shard
from cogtune.data.store import shard_paths
from tests.slurm.cluster import Cluster, profile_command, wait_until
from tests.workflow.project import Project

ROWS = ("preprocess", "latents", "text", "sample", "evaluate")


def rows(project: Project) -> dict[str, tuple[Any, dict[str, bytes]]]:
    """Every row of the store: its meta and its tensors. Fails if a row is in two shards."""
    found: dict[str, tuple[Any, dict[str, bytes]]] = {}
    for folder in (path for stage in ROWS for path in (project.root / "store" / stage).iterdir()):
        for shard in map(Shard, shard_paths(folder)):
            for name in shard.rows():
                row = f"{folder.parent.name}/{folder.name}/{name}"
                assert row not in found
                tensors = {key: tensor.numpy().tobytes() for key, tensor in shard.tensors(name).items()}
                found[row] = shard.meta[name], tensors
    return found


def weights(project: Project) -> dict[str, str]:
    """Digests of the final weights of trainings, and of the exported ones."""
    store = project.root / "store"
    files = [*store.glob("train/*/final/*.safetensors"), *store.glob("export/**/*.safetensors")]
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equals_a_local_run_although_its_configs_break_while_jobs_are_queued(
    cluster: Cluster, local: Project, fresh: Project, tmp_path: Path
) -> None:
    configs = {path: path.read_text() for path in (fresh.root / "config").iterdir()}
    last = max((job.number for job in cluster.jobs()), default=0)
    log = tmp_path / "main.log"
    main = cluster.popen(profile_command(), cwd=fresh.root, log=log)
    wait_until(lambda: any(name.startswith("scan-") for name in fresh.receipts()), "finished scan", 600)
    for stage in ("text", "train", "sample"):  # each time the main process has read its configs, and the job has not
        wait_until(lambda stage=stage: submitted(log, stage) or main.poll() is not None, f"job {stage}", 900)
        for path in configs:
            path.write_text("model: [broken")
    assert main.wait(timeout=900) == 0, log.read_text()[-6000:]

    for path, text in configs.items():
        path.write_text(text)
    assert rows(fresh) == rows(local)
    assert weights(fresh) == weights(local)
    assert fresh.metrics() == local.metrics()
    jobs = {job.fields["Comment"].split("_")[1]: job for job in cluster.jobs() if job.number > last}
    assert {job.state for job in jobs.values()} == {"COMPLETED"}
    assert {jobs[stage].fields["Partition"] for stage in ("scan", "preprocess", "export", "report")} == {"cpu"}
    assert {jobs[stage].fields["Partition"] for stage in ("latents", "text", "train", "sample")} == {"gpu"}
    assert re.fullmatch(r"gres[:/]gpu:2", jobs["train"].fields["TresPerJob"])
    assert json.loads(local.metrics())
    assert "Nothing to be done" in cluster.snakemake(fresh.root).stderr


def submitted(log: Path, stage: str) -> bool:
    return f"rule_{stage}/" in log.read_text()
