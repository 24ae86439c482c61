"""`afina score --engine ray` on a real cluster of this machine."""

from __future__ import annotations

import csv
import os
import threading
import time
from pathlib import Path

import pytest

from afina.errors import UserError
from afina.scoring import Settings, score
from toy_artifact import write_toy

pytest.importorskip("ray.data")
psutil = pytest.importorskip("psutil")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with open("in.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text"])
        writer.writerows([number, ["agua", "luz luz", "", "pagos"][number % 4]] for number in range(800))
    return str(write_toy(tmp_path / "model.onnx"))


def kill_one_actor(folder: Path, killed: list[int]) -> None:
    """Kill the process of an actor once some parts are done, others not."""
    for _ in range(10_000):
        done = len(list(folder.glob("[0-9]*.json"))) if folder.is_dir() else 0
        for child in psutil.Process().children(recursive=True) if done >= 3 else ():
            try:
                if "ScoringActor" in " ".join(child.cmdline()):
                    child.kill()
                    killed += [child.pid, done]
                    return
            except psutil.Error:
                continue
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_worker_loses_and_repeats_nothing(model: str, tmp_path: Path) -> None:
    settings = Settings(chunk=10, top_k=2)
    expected = score("in.csv", "here.csv", model, settings)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_actor, args=(tmp_path / "out.csv.parts/done", killed))
    killer.start()
    result = score("in.csv", "out.csv", model, settings, engine="ray", workers=2, threads=1)
    killer.join()
    assert killed
    assert 3 <= killed[1] < 80  # in the middle
    assert (result.rows, result.scored, result.failed) == (800, 600, 200)
    assert result.scored == expected.scored
    assert Path("out.csv").read_bytes() == Path("here.csv").read_bytes()
    assert Path("out.csv.failed.csv").read_bytes() == Path("here.csv.failed.csv").read_bytes()
    assert not Path("out.csv.parts").exists()


def test_an_error_of_a_worker_is_told_in_one_line(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from afina.scoring import job

    real = job.Task
    monkeypatch.setattr(job, "Task", lambda *values: real(*values[:4], "0" * 64, *values[5:]))
    with pytest.raises(UserError, match="not the model that this run began with") as caught:
        score("in.csv", "out.csv", model, Settings(chunk=400), engine="ray", workers=1, threads=1)
    assert "\n" not in str(caught.value)
    assert not Path("out.csv").exists()


def test_no_cluster(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**_: object) -> None:
        raise Exception("The current node timed out\nduring startup")  # as Ray does

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match=r"no cluster \(The current node timed out during startup\)"):
        score("in.csv", "out.csv", model, engine="ray", workers=1, threads=1)
