"""`cogtune weights get` against a server that answers like the Hub, each in a process of its own, as users run it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from cogtune.checkpoints.published import MODELS
from cogtune.config.errors import ConfigError
from cogtune.config.hub_paths import Pins, pinned_around
from cogtune.work.content_hashes import ContentHashes, Source
from tests.hub import TOKEN, Hub, serving

pytestmark = pytest.mark.heavy

BIG = bytes(range(256)) * 100
CHUNK = 10 * 1024**2
"""huggingface_hub writes in pieces of this size."""
MODEL = {
    "transformer/config.json": b'{"_class_name": "CogVideoXTransformer3DModel"}',
    "transformer/diffusion_pytorch_model.safetensors": BIG,
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": BIG[:2000],
    "text_encoder/config.json": b'{"model_type": "t5"}',
    "text_encoder/model.safetensors": BIG[:3000],
    "tokenizer/spiece.model": BIG[:1500],
    "model_index.json": b"{}",
    "scheduler/scheduler_config.json": b"{}",
    "LICENSE": b"Apache",
    "README.md": b"not downloaded",
    ".gitattributes": b"not downloaded",
}
REPOSITORY = "zai-org/CogVideoX-2b"


@pytest.fixture
def hub() -> Generator[Hub, None, None]:
    with serving() as hub:
        hub.add(REPOSITORY, MODEL)
        yield hub


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cogtune", "weights", "get", *words]


def get(hub: Hub, folder: Path, *words: str, code: int = 0, **environment: str) -> str:
    """Run the command in ``folder``; return what it prints. No output or file may hold the token."""
    done = subprocess.run(
        command(*words), cwd=folder, env=hub.environment(folder / "home", **environment), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    assert "Traceback" not in printed
    assert TOKEN not in printed
    assert not [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    return printed


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected(*beginnings: str) -> dict[str, bytes]:
    return {path: content for path, content in MODEL.items() if path.startswith(beginnings)}


def test_a_model_and_t5_come_into_their_folders_and_again_nothing_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    printed = get(hub, tmp_path, "cogvideox-2b", "--yes")
    assert files(tmp_path / "weights/cogvideox-2b") == expected(
        "transformer", "vae", "model_index", "scheduler", "LICENSE"
    )
    assert files(tmp_path / "weights/t5-v1_1-xxl") == expected("text_encoder", "tokenizer")
    assert "licence of weights/cogvideox-2b: Apache-2.0" in printed
    assert "config/cogvideox_2b.yaml" in printed
    by_host = {host.partition(":")[0]: headers for _, host, path, headers in hub.requests if path.startswith("/cdn/")}
    assert by_host.keys() == {"localhost"}
    assert "authorization" not in by_host["localhost"], "the token went to another host"
    assert f"Bearer {TOKEN}" in {headers.get("authorization") for _, _, _, headers in hub.requests}
    hub.requests.clear()
    assert "to download: 0 B" in get(hub, tmp_path, "cogvideox-2b", "--yes")
    assert not [path for _, _, path, _ in hub.requests if "/resolve/" in path or path.startswith("/cdn/")]


def test_what_was_downloaded_is_pinned_and_a_changed_file_refused(hub: Hub, tmp_path: Path) -> None:
    old = hub.repositories[REPOSITORY]["main"]
    assert "free on the disk of" in get(hub, tmp_path, "cogvideox-2b", code=1, HF_HUB_OFFLINE="1")
    get(hub, tmp_path, "cogvideox-2b", "--yes")
    pin = json.loads((tmp_path / "weights/pins.json").read_text())["folders"]["weights/cogvideox-2b"]
    assert (pin["repository"], pin["commit"]) == (REPOSITORY, old)
    downloaded = files(tmp_path / "weights/cogvideox-2b")
    assert pin["files"] == {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for path, content in downloaded.items()
    }
    hub.add(REPOSITORY, MODEL | {"vae/config.json": b'{"new": 1}'})
    get(hub, tmp_path, "cogvideox-2b", "--yes")
    assert files(tmp_path / "weights/cogvideox-2b") == downloaded, "it stays on its commit"

    path = str(tmp_path / "weights/cogvideox-2b/vae")
    pinned = pinned_around(path, Pins(tmp_path / "weights/pins.json"), tmp_path)
    hashes = ContentHashes(tmp_path / "hashes.json")
    hashes.check_pinned(Source(path, "", "", "ckpt_path"), pinned)
    (tmp_path / "weights/cogvideox-2b/vae/config.json").write_bytes(b"[]")
    with pytest.raises(ConfigError, match=r"vae/config\.json: not the file that was pinned"):
        hashes.check_pinned(Source(path, "", "", "ckpt_path"), pinned)
    assert pinned_around(str(tmp_path / "weights/other"), Pins(tmp_path / "weights/pins.json"), tmp_path) == {}


def test_dry_run_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    printed = get(hub, tmp_path, "cogvideox1.5-5b", "--dry-run", "--to", "disk", HF_HUB_OFFLINE="1")
    assert hub.requests == []
    assert files(tmp_path) == {}
    assert 'hf download zai-org/CogVideoX1.5-5B --include "transformer/*"' in printed
    assert "--local-dir disk/cogvideox1.5-5b" in printed


def test_the_lines_by_hand_bring_the_same_files(hub: Hub, tmp_path: Path) -> None:
    printed = get(hub, tmp_path, "cogvideox-2b", "--dry-run")
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  hf download")]
    assert len(lines) == 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in lines:
        environment = hub.environment(tmp_path / "home", PATH=path)
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    by_hand = {name: content for name, content in files(tmp_path / "weights").items() if "/.cache/" not in f"/{name}"}
    shutil.rmtree(tmp_path / "weights")
    get(hub, tmp_path, "cogvideox-2b", "--yes")
    assert by_hand == {name: content for name, content in files(tmp_path / "weights").items() if name != "pins.json"}


def test_a_killed_download_resumes_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    large = BIG * (2 * CHUNK // len(BIG) + 1)
    hub.add(REPOSITORY, MODEL | {"transformer/diffusion_pytorch_model.safetensors": large})
    hub.stop_after = CHUNK + 1000
    process = subprocess.Popen(
        command("cogvideox-2b", "--yes"),
        cwd=tmp_path,
        env=hub.environment(tmp_path / "home"),
        stderr=subprocess.DEVNULL,
    )
    parts = tmp_path / "weights/cogvideox-2b/.incomplete"
    deadline = time.monotonic() + 30
    while sum(part.stat().st_size for part in parts.glob("*.part")) < CHUNK:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = sum(part.stat().st_size for part in parts.glob("*.part"))
    assert not (tmp_path / "weights/cogvideox-2b/transformer/diffusion_pytorch_model.safetensors").exists()
    get(hub, tmp_path, "cogvideox-2b", "--yes")
    ranges = [headers.get("range") for headers in hub.gets("transformer/diffusion_pytorch_model.safetensors")]
    assert ranges[-1] == f"bytes={kept}-"
    assert (tmp_path / "weights/cogvideox-2b/transformer/diffusion_pytorch_model.safetensors").read_bytes() == large
    assert not parts.exists()


@pytest.mark.parametrize("path", ["vae/diffusion_pytorch_model.safetensors", "vae/config.json"])
def test_a_wrong_hash_is_refused_and_named(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.served[path] = bytes(reversed(MODEL[path]))
    printed = get(hub, tmp_path, "cogvideox-2b", "--yes", code=1)
    assert f"{path}: wrong content (hash" in printed
    assert not (tmp_path / "weights/cogvideox-2b" / path).exists()
    del hub.served[path]
    get(hub, tmp_path, "cogvideox-2b", "--yes")


def test_another_file_under_the_name_is_kept(hub: Hub, tmp_path: Path) -> None:
    own = tmp_path / "weights/cogvideox-2b/vae/config.json"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    assert "exists and is not the file of" in get(hub, tmp_path, "cogvideox-2b", "--yes", code=1)
    assert own.read_text() == "mine"


REFUSED = {
    "gated": (["cogvideox-2b", "--yes"], {}, ["gated", "hf auth login", "by hand", "hf download zai-org/CogVideoX-2b"]),
    "unknown": (["cogvideox-5b", "--yes"], {}, ["no such repository", "HF_TOKEN", "hf download zai-org/CogVideoX-5b"]),
    "revision": (["cogvideox-2b", "--revision", "v9", "--yes"], {}, ["zai-org/CogVideoX-2b@v9", "no such branch"]),
    "offline": (["cogvideox-2b", "--yes"], {"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE is set", "hf download"]),
    "no network": (["cogvideox-2b", "--yes"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["cannot reach", "resumes"]),
    "not confirmed": (["cogvideox-2b"], {}, ["add --yes", "to download: "]),
    "no such model": (["cogvideox-9b"], {}, ["unknown model 'cogvideox-9b'", *MODELS, "hf://"]),
    "sat by hand": (["cogvideox-2b", "--layout", "sat"], {}, ["cloud.tsinghua.edu.cn", "unzip", "args.load="]),
    "update": (["cogvideox-2b", "--update"], {}, ["--update is for hf:// paths"]),
    "layout": (["hf://zai-org/CogVideoX-2b", "--layout", "sat"], {}, ["--layout is for the names"]),
    "to": (["hf://zai-org/CogVideoX-2b", "--to", "x"], {}, ["--to is for the names"]),
    "hf revision": (["hf://zai-org/CogVideoX-2b", "--revision", "v1"], {}, ["write hf://zai-org/CogVideoX-2b@v1"]),
    "path": (["hf://zai-org/CogVideoX-2b/nowhere", "--yes"], {}, ["no such path", "scheduler/", "vae/"]),
    "outside": (["hf://zai-org/CogVideoX-2b/../../x"], {}, ["must stay inside the repository"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_to_do(hub: Hub, tmp_path: Path, name: str) -> None:
    words, environment, texts = REFUSED[name]
    hub.gated = {REPOSITORY} if name == "gated" else set()
    printed = get(hub, tmp_path, *words, code=1, **environment)
    assert [text for text in texts if text not in printed] == [], printed
    assert not (tmp_path / "weights/pins.json").exists()


def test_a_hostile_listing_writes_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.add("evil/model", {"a/../../../outside": b"x", "config.json": b"{}"})
    assert "leads out of its folder" in get(hub, tmp_path, "hf://evil/model", "--yes", code=1)
    assert files(tmp_path) == {}


def test_a_hub_path_is_pinned_and_stays_on_its_commit(hub: Hub, tmp_path: Path) -> None:
    old = hub.repositories[REPOSITORY]["main"]
    get(hub, tmp_path, f"hf://{REPOSITORY}/vae", "--yes")
    folder = tmp_path / f"weights/hub/{REPOSITORY}"
    assert files(folder / old) == expected("vae")
    new = hub.add(REPOSITORY, MODEL | {"vae/config.json": b'{"new": 1}'})
    get(hub, tmp_path, f"hf://{REPOSITORY}/text_encoder", "--yes")
    assert files(folder / old) == expected("vae", "text_encoder", "tokenizer"), "a text encoder needs its tokenizer"
    pins = json.loads((tmp_path / "weights/pins.json").read_text())["pins"][f"{REPOSITORY}@main"]
    assert pins["commit"] == old
    assert pins["files"] == {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for path, content in expected("vae", "text_encoder", "tokenizer").items()
    }
    get(hub, tmp_path, f"hf://{REPOSITORY}/vae", "--yes", "--update")
    pins = json.loads((tmp_path / "weights/pins.json").read_text())["pins"][f"{REPOSITORY}@main"]
    assert (pins["commit"], len(pins["files"])) == (new, 2)
