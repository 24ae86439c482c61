"""Results go to a remote and come back in a fresh clone, with nothing run again."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workspace import Project

from afina.files import sha256


def cached_outputs(project: Project) -> dict[str, str]:
    """SHA-256 of every file that DVC, not git, keeps."""
    ignored = project.git("ls-files", "--others", "--ignored", "--exclude-standard").splitlines()
    return {
        name: sha256(project.root / name)
        for name in ignored
        if name.startswith(("data/", "models/", "reports/")) and not name.startswith("models/checkpoints/")
    }


def push_clone_pull(project: Project, base: Path, url: str, *settings: tuple[str, str]) -> None:
    """Push from ``project`` to a new default remote, pull in a clone of it, and compare."""

    def set_up(where: Project) -> None:
        for name, value in settings:
            where.dvc("remote", "modify", "--local", "storage", name, value)

    project.dvc("remote", "add", "--default", "storage", url)
    project.commit("Storage for results")
    set_up(project)
    project.dvc("push")
    expected = cached_outputs(project)
    assert "models/onnx/model.onnx" in expected
    assert "data/raw/messages.parquet" in expected

    clone = project.clone_to(base)
    assert cached_outputs(clone) == {}
    set_up(clone)
    clone.dvc("pull")
    assert cached_outputs(clone) == expected
    assert "Data and pipelines are up to date." in clone.dvc("status").out
    assert "in sync" in clone.dvc("status", "--cloud").out
    assert clone.dvc("repro").ran == []
    assert clone.git("status", "--short") == ""


def test_local_remote(project: Project, tmp_path: Path) -> None:
    push_clone_pull(project, tmp_path / "clone", str(tmp_path / "storage"))


def test_ssh_remote(project: Project, tmp_path: Path) -> None:
    pytest.importorskip("dvc_ssh", reason="the extra `ssh` is not installed")
    with ssh_server(tmp_path / "ssh") as (port, key):
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path / 'storage'}"
        push_clone_pull(project, tmp_path / "clone", url, ("keyfile", str(key)))
    assert [*(tmp_path / "storage" / "files" / "md5").iterdir()]


@contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """An SSH server of our own on a free loopback port; gives the port and the key that it lets in."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if server is None:
        pytest.skip("no sshd: install openssh-server")
    folder.mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    if os.getuid() == 0:
        # Where sshd puts itself before a login; the package's own service makes it, a container may not.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").write_text(
        f"""
Port {port}
ListenAddress 127.0.0.1
HostKey {folder / "host"}
AuthorizedKeysFile {folder / "authorized_keys"}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
""",
        encoding="utf-8",
    )
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([server, "-D", "-e", "-f", str(folder / "config")], stderr=stream)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"sshd ended: {log.read_text()}"
                assert time.monotonic() < deadline, f"sshd does not answer: {log.read_text()}"
                time.sleep(0.05)
        yield port, folder / "user"
    finally:
        process.terminate()
        process.wait(timeout=20)
