"""The checks of software, devices, ranks and disk."""

import json
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from cogtune.__main__ import main
from cogtune.doctor import disk
from cogtune.doctor.all_reduce import all_reduce_check
from cogtune.doctor.devices import Driver, device_checks, driver_check, read_driver, torch_check
from cogtune.doctor.software import package_check, pinned_versions, pins_check, software_checks
from tests.unit.doctor.conftest import Install
from tests.unit.doctor.outputs import nvidia_smi

DRIVER = Driver("550.54.15", (12, 4), ("NVIDIA H100 80GB HBM3",) * 2)
GPU = {"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81559, "error": ""}


def facts(**changes: Any) -> dict[str, Any]:
    attention = {"kernel": "flash", "device": "cuda", "dtype": "bfloat16"}
    plain = {"torch": "2.8.0+cu126", "cuda": "12.6", "hip": None, "error": "", "devices": [GPU, GPU]}
    return plain | {"attention": attention} | changes


def test_this_environment_has_what_pyproject_needs() -> None:
    checks = {check.name: check for check in software_checks("slurm")}
    assert not [check for check in checks.values() if check.level == "FAIL"]
    assert {"python", "torch", "av", "snakemake", "snakemake-executor-plugin-slurm"} <= checks.keys()


@pytest.mark.parametrize(
    ("needed", "level", "words"),
    [
        ("numpy>=1", "OK", "(>=1)"),
        ("numpy>=99", "FAIL", "expected >=99"),
        ("no-such-package>=1", "FAIL", "not installed"),
    ],
)
def test_packages(needed: str, level: str, words: str) -> None:
    check = package_check(Requirement(needed))
    assert (check.level, words in check.text, needed in check.fix) == (level, True, level == "FAIL")


def test_pinned_versions_do_not_count_local_parts() -> None:
    tested = pinned_versions("# comment\ntorch==2.8.0\nImageIO==2.38.1\n")
    assert pins_check({"torch": "2.8.0+cu128", "imageio": "2.38.1", "other": "1"}, tested).level == "OK"
    assert "torch 2.9.0 (tested 2.8.0)" in pins_check({"torch": "2.9.0"}, tested).text


def test_the_driver_is_read(install: Install) -> None:
    install("nvidia-smi", nvidia_smi(2))
    assert read_driver() == DRIVER


def test_a_driver_that_fails(install: Install) -> None:
    install("nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    driver = read_driver()
    assert driver == "Failed to initialize NVML: Driver/library version mismatch"
    assert driver_check(driver).level == "FAIL"


def test_no_driver(bare_path: None) -> None:
    assert read_driver() == ""
    assert driver_check("").level == "OK"


@pytest.mark.parametrize(
    ("driver", "changes", "level", "words"),
    [
        (DRIVER, {}, "OK", "2 GPUs"),
        (DRIVER, {"cuda": "13.0"}, "FAIL", "supports CUDA up to 12.4"),
        (DRIVER, {"cuda": None, "devices": []}, "FAIL", "CPU only"),
        (DRIVER, {"devices": [], "error": "CUDA unknown error"}, "FAIL", "CUDA unknown error"),
        ("", {"cuda": None, "devices": []}, "OK", "CPU only"),
    ],
)
def test_torch_against_the_driver(driver: Driver | str, changes: dict[str, Any], level: str, words: str) -> None:
    check = torch_check(driver, facts(**changes))
    assert (check.level, words in check.text, bool(check.fix)) == (level, True, level == "FAIL"), check


def test_each_gpu_and_the_attention_kernel() -> None:
    bad = GPU | {"error": "no kernel image is available for execution on the device"}
    math = {"kernel": "math", "device": "cuda", "dtype": "bfloat16"}
    levels = {check.name: check.level for check in device_checks(DRIVER, facts(devices=[GPU, bad], attention=math))}
    assert levels == {"driver": "OK", "torch": "OK", "GPU 0": "OK", "GPU 1": "FAIL", "attention": "WARN"}
    broken = {check.name: check.level for check in device_checks(DRIVER, "ImportError: libcudart.so.12")}
    assert broken == {"driver": "OK", "torch": "FAIL"}


def test_more_ranks_than_gpus() -> None:
    check = all_reduce_check(4, 2)
    assert (check.level, "--ranks 2" in check.fix) == ("FAIL", True)


@pytest.mark.heavy
def test_an_all_reduce_that_cannot_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    check = all_reduce_check(2, 0)
    assert check.level == "FAIL"
    assert "rank" in check.text
    assert "GLOO_SOCKET_IFNAME" in check.fix


@pytest.mark.heavy
def test_an_all_reduce_that_does_not_end() -> None:
    check = all_reduce_check(2, 0, seconds=0.3)
    assert (check.level, "still waiting: rank 0, 1" in check.text) == ("FAIL", True), check


MOUNTS = """\
25 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 25 0:50 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2,soft,proto=tcp
31 25 0:51 / /data\\040disk rw - lustre 10.0.0.1@o2ib:/data rw,flock
32 25 0:52 / /home/fast rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("folder", "kind", "level"),
    [
        ("/", "ext4", "OK"),
        ("/home/me", "nfs4", "WARN"),
        ("/data disk/x", "lustre", "OK"),
        ("/home/fast", "tmpfs", "WARN"),
    ],
)
def test_file_systems(folder: str, kind: str, level: str) -> None:
    mount = disk.mount_of(Path(folder), disk.mounts(MOUNTS))
    assert mount is not None
    assert (mount.kind, disk.file_system_check(Path(folder), mount).level) == (kind, level)


@pytest.mark.parametrize(
    ("free", "files", "level"), [(1e12, 0, "OK"), (1e12, 10**6, "OK"), (1e12, 5, "WARN"), (1e9, 0, "WARN")]
)
def test_space(free: float, files: int, level: str) -> None:
    assert disk.space_check(Path("store"), int(free), files).level == level


def test_the_disk_checks_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_BYTES", 2 * disk._BLOCK)
    names = [check.name for check in disk.disk_checks(tmp_path / "not" / "made")]
    assert {"space", "locks", "speed"} <= set(names)
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workflow = tmp_path / "config.yaml"
    workflow.write_text("experiments:\n")
    code = main(["doctor", "--json", "--ranks", "2", "--store", str(tmp_path / "store"), "--workflow", str(workflow)])
    report = json.loads(capsys.readouterr().out)
    checks = {(check["topic"], check["name"]): check for check in report["checks"]}
    assert checks["ranks", "all-reduce"]["level"] == "OK"
    assert checks["devices", "attention"]["text"].startswith("SDPA uses ")
    assert report["failed"] == sum(check["level"] == "FAIL" for check in report["checks"])
    assert code == int(report["failed"] > 0)
