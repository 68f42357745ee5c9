"""Two machines, gpu01 and gpu02, on this one: network namespaces with a cable between them, host names, and an sshd each.

Needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN, `ip`, sshd and ssh. Nothing of it is visible outside of the namespaces, and
all ends with the processes that hold them.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "sshd")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_SSHD = """\
Port 22
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
PidFile none
"""
_SSH = """\
IdentityFile {folder}/key
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""
_HOLD = """
hostname {name} && ip link set lo up &&
mount --bind {folder}/hosts /etc/hosts && mount --bind {folder}/ssh_config /etc/ssh/ssh_config &&
mount -t tmpfs tmpfs /run && mkdir /run/sshd && echo held || exit 1
read cable
ip address add {address}/24 dev cable && ip link set cable up || exit 1
"$(command -v sshd)" -D -e -f {folder}/sshd_config &
echo ready
cat
kill $!
"""


@dataclass(frozen=True)
class Host:
    """``holder``: the process that keeps the namespaces; it ends when its input closes."""

    name: str
    holder: "subprocess.Popen[str]"

    def popen(self, command: Sequence[str], cwd: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
        """Start a command there, with its output in one pipe."""
        enter = [
            "nsenter",
            f"--target={self.holder.pid}",
            "--net",
            "--mount",
            "--uts",
            "sh",
            "-c",
            'cd "$0" && exec "$@"',
        ]
        return subprocess.Popen(
            [*enter, str(cwd), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def missing() -> str:
    """Why no such machines can be made here; "" if nothing is known to stand against it."""
    if absent := [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]:
        return f"not installed: {', '.join(absent)} (apt-get install iproute2 openssh-client openssh-server)"
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    link = "ip link add name one type veth peer name two"
    tried = subprocess.run(["unshare", "--net", "--mount", "--uts", *link.split()], capture_output=True, text=True)
    return f"cannot make namespaces and a cable: {tried.stderr.strip()}" if tried.returncode else ""


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Host, Host]]:
    """gpu01 and gpu02; each knows the other's name and can ssh to it. ``folder``: for their settings."""
    folder.chmod(0o755)
    addresses = {"gpu01": "10.77.0.1", "gpu02": "10.77.0.2"}
    hosts = "".join(f"{address} {name}\n" for name, address in addresses.items())
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder))
    (folder / "ssh_config").write_text(_SSH.format(folder=folder))
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")]
    subprocess.run(key, check=True)
    holders: list[subprocess.Popen[str]] = []
    try:
        for name, address in addresses.items():
            holders.append(_hold(_HOLD.format(name=name, address=address, folder=folder)))
        first, second = holders
        cable = f"ip link add name cable netns {first.pid} type veth peer name cable netns {second.pid}"
        subprocess.run(cable.split(), check=True, env=os.environ | {"PATH": _PATH})
        for holder in holders:
            _answer(holder, "plugged in\n", "ready")
        yield Host("gpu01", first), Host("gpu02", second)
    finally:
        for holder in holders:
            holder.communicate()


def _hold(script: str) -> "subprocess.Popen[str]":
    enter = ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", script]
    pipe = subprocess.PIPE
    holder = subprocess.Popen(
        enter, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"PATH": _PATH}
    )
    _answer(holder, "", "held")
    return holder


def _answer(holder: "subprocess.Popen[str]", word: str, expected: str) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(word)
    holder.stdin.flush()
    answer = holder.stdout.readline().strip()
    assert answer == expected, answer or "the machine ended"
