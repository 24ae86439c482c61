"""Fine-tuning: it learns, it goes on after a crash as if nothing had been, and its errors are readable."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from afina.errors import UserError
from afina.evaluation.scoring import count_tokens
from afina.labels import LabelSet, Task, encode_labels
from afina.modeling.inference import predict_logits
from afina.modeling.store import load_classifier
from afina.params.train import TrainParams
from afina.training import forward, loop
from afina.training.checkpoint import CHECKPOINT, clear_checkpoints
from afina.training.loop import TrainingResult, train
from afina.training.loss import Objective
from tiny import ARCHITECTURES, LABELS, Architecture, build_tiny_backbone, tiny_messages

THREADS = 1


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_backbone(tmp_path_factory.mktemp("backbone") / "bert")


def params_for(backbone: Path, **changes: Any) -> TrainParams:
    """Quick settings: 40 messages in 5 batches, 3 epochs."""
    values: dict[str, Any] = {
        "backbone": str(backbone),
        "max_length": 32,
        "lexical": False,
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "head_learning_rate": 1e-2,
        "precision": "fp32",
        "device": "cpu",
        "threads": THREADS,
        "checkpoint_seconds": 0,  # after every update
    }
    return TrainParams(**(values | changes))


def run(
    folder: Path,
    params: TrainParams,
    task: Task = "multiclass",
    seed: int = 7,
    table: pa.Table | None = None,
    class_weights: dict[str, float] | None = None,
) -> TrainingResult:
    return train(
        params,
        tiny_messages(task, 40) if table is None else table,
        tiny_messages(task, 21, seed=1),
        LabelSet(task, LABELS, cleaning={"steps": ["collapse_whitespace"]}),
        class_weights,
        seed,
        folder / "classifier",
        folder / "checkpoints",
    )


class Killed(Exception):  # noqa: N818
    """Stands for a process that ends."""


def kill_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> Callable[[], None]:
    """Make training stop as its ``updates``-th update is reported; returns what undoes that."""
    original = loop.Progress.advance
    count = 0

    def advance(self: Any, number: int = 1, note: str = "") -> None:
        nonlocal count
        count += 1
        original(self, number, note)
        if count == updates:
            raise Killed

    monkeypatch.setattr(loop.Progress, "advance", advance)
    return lambda: monkeypatch.setattr(loop.Progress, "advance", original)


def assert_same_classifier(one: Path, other: Path) -> None:
    """Bit for bit: weights, tokenizer and configuration."""
    for path in sorted((one / "classifier").iterdir()):
        assert path.read_bytes() == (other / "classifier" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns(architecture: Architecture, task: Task, tmp_path: Path) -> None:
    backbone = build_tiny_backbone(tmp_path / "b", architecture)
    params = params_for(backbone, checkpoint_seconds=60, epochs=8, learning_rate=6e-3)
    result = run(tmp_path, params, task, table=tiny_messages(task, 64))
    losses = [record.train_loss for record in result.history]
    assert losses[-1] < 0.85 * losses[0]
    assert [record.epoch for record in result.history] == list(range(1, 9))
    assert result.best_macro_f1 == pytest.approx(
        max(record.validation_macro_f1 for record in result.history), abs=1e-6
    )
    assert result.best_macro_f1 > 0.4
    _, encoder, config = load_classifier(tmp_path / "classifier")
    assert (config.task, config.labels, config.max_length) == (task, list(LABELS), 32)
    assert config.cleaning == {"steps": ["collapse_whitespace"]}
    assert config.backbone == "b"
    assert encoder.max_length == 32
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {CHECKPOINT, f"best-{result.best_epoch}.safetensors"}


def test_equal_runs_give_equal_bytes_and_another_seed_others(bert: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "1", params_for(bert))
    again = run(tmp_path / "2", params_for(bert))
    other = run(tmp_path / "3", params_for(bert), seed=8)
    assert first.history == again.history
    assert_same_classifier(tmp_path / "1", tmp_path / "2")
    assert other.history != first.history


# 5 updates an epoch: the first update, mid-epoch, an epoch's last one, the next one's first, the very last.
@pytest.mark.parametrize("updates", [1, 3, 5, 6, 13, 15])
def test_killed_and_run_again_equals_never_killed(
    updates: int,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A head with dropout, bf16 and class weights: everything that could depend on forgotten state.
    params = params_for(bert, head=[16], dropout=0.3, precision="bf16", patience=2)
    weights = {"agua": 2.0, "luz": 1.0, "pagos": 0.5}
    whole = run(tmp_path / "whole", params, class_weights=weights)
    restore = kill_after(monkeypatch, updates)
    with pytest.raises(Killed):
        run(tmp_path / "parts", params, class_weights=weights)
    restore()
    assert not (tmp_path / "parts" / "classifier").exists()
    resumed = run(tmp_path / "parts", params, class_weights=weights)
    assert resumed.history == whole.history
    assert (resumed.best_epoch, resumed.best_macro_f1) == (whole.best_epoch, whole.best_macro_f1)
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")
    assert ("resumes from its checkpoint" in capsys.readouterr().err) == (updates > 1)


@pytest.mark.parametrize(("task", "updates"), [("multiclass", 3), ("multilabel", 15)])
def test_the_lexical_model_beside_the_backbone(
    task: Task, updates: int, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_for(bert, lexical=True, lexical_length=40)
    whole = run(tmp_path / "whole", params, task)
    model, encoder, config = load_classifier(tmp_path / "whole" / "classifier")
    assert (config.max_length, config.window, encoder.max_length) == (40, 32, 40)
    # What the backbone does not see is cut off, though the lexical model reads on.
    lengths, limit = count_tokens(tmp_path / "whole" / "classifier", ["agua " * 36, "agua"])
    assert limit == 32 < lengths[0]
    assert lengths[1] < 32
    # What was saved scores as it did when it was chosen.
    validation = tiny_messages(task, 21, seed=1)
    logits = torch.from_numpy(predict_logits(model, encoder, validation["text"].to_pylist()))
    targets = encode_labels(validation["labels"], LABELS, task)
    score = loop.macro_f1(targets, loop.answers(logits, task).numpy(), LABELS, task)
    assert score == pytest.approx(whole.best_macro_f1, abs=1e-9)
    restore = kill_after(monkeypatch, updates)
    with pytest.raises(Killed):
        run(tmp_path / "parts", params, task)
    restore()
    assert run(tmp_path / "parts", params, task).history == whole.history
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")


def test_killed_twice_with_gradient_accumulation(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_for(bert, gradient_accumulation=2)  # 3 updates an epoch, the last of one batch
    whole = run(tmp_path / "whole", params, "multilabel")
    for updates in (2, 4):
        restore = kill_after(monkeypatch, updates)
        with pytest.raises(Killed):
            run(tmp_path / "parts", params, "multilabel")
        restore()
    resumed = run(tmp_path / "parts", params, "multilabel")
    assert resumed.history == whole.history
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")


def test_killed_while_validating_or_saving_the_classifier(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", params_for(bert))

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    for name in ("_validate", "save_best", "save_classifier"):
        with monkeypatch.context() as patch:
            patch.setattr(loop, name, dies)
            with pytest.raises(Killed):
                run(tmp_path / "parts", params_for(bert))
    assert run(tmp_path / "parts", params_for(bert)).history == whole.history
    assert_same_classifier(tmp_path / "whole", tmp_path / "parts")


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from test_training import params_for, run
run(Path({folder!r}), params_for(Path({bert!r}), epochs=400, checkpoint_seconds=0.05))
"""


def test_signal_9_leaves_a_checkpoint_that_can_be_read(bert: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    script = SCRIPT.format(
        paths=[str(here), str(here.parent), str(Path(loop.__file__).parents[2])],
        folder=str(tmp_path),
        bert=str(bert),
    )
    checkpoint = tmp_path / "checkpoints" / CHECKPOINT
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        written: set[int] = set()
        deadline = time.monotonic() + 120
        while len(written) < 4:  # it has been replaced several times: die in the midst of it
            assert process.poll() is None
            assert time.monotonic() < deadline
            if checkpoint.exists():
                written.add(checkpoint.stat().st_mtime_ns)
            time.sleep(0.001)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    tensors = load_file(checkpoint)
    assert any(name.startswith("model/backbone.") for name in tensors)
    assert any(name.startswith("optimizer/") for name in tensors)
    # The same run in this process takes it up: a 401st epoch would be another run.
    started = loop.load_checkpoint
    seen: list[Any] = []
    loop.load_checkpoint = lambda *args: seen.append(started(*args)) or (_ for _ in ()).throw(Killed)
    try:
        with pytest.raises(Killed):
            run(tmp_path, params_for(bert, epochs=400, checkpoint_seconds=3))
    finally:
        loop.load_checkpoint = started
    assert seen[0] is not None
    assert (seen[0].epoch, seen[0].update) > (0, 0)


@pytest.mark.parametrize("change", ["params", "seed", "data", "weights", "configuration", "code"])
def test_a_checkpoint_of_another_run_is_ignored(
    change: str,
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bert = shutil.copytree(bert, tmp_path / "bert")
    restore = kill_after(monkeypatch, 7)
    with pytest.raises(Killed):
        run(tmp_path / "stale", params_for(bert))
    restore()
    options: dict[str, Any] = {}
    params = params_for(bert)
    if change == "params":
        params = params_for(bert, weight_decay=0.1)
    elif change == "seed":
        options["seed"] = 8
    elif change == "data":
        options["table"] = tiny_messages(n=40, seed=9)
    elif change == "weights":
        options["class_weights"] = {"agua": 3.0}
    elif change == "configuration":
        config = json.loads((bert / "config.json").read_text(encoding="utf-8")) | {"hidden_act": "relu"}
        (bert / "config.json").write_text(json.dumps(config), encoding="utf-8")
    else:
        monkeypatch.setattr(loop, "code_version", lambda: "another version")
    result = run(tmp_path / "stale", params, **options)
    assert "of a run with other parameters, data or code; ignored" in capsys.readouterr().err
    assert result.history == run(tmp_path / "fresh", params, **options).history


def test_how_a_run_is_done_may_change_between_the_parts(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    restore = kill_after(monkeypatch, 7)
    with pytest.raises(Killed):
        run(tmp_path, params_for(bert))
    restore()
    run(tmp_path, params_for(bert, checkpoint_seconds=30, device="auto"))
    assert "resumes" in capsys.readouterr().err


def test_an_unreadable_checkpoint_is_ignored(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / CHECKPOINT).write_bytes(b"half of something")
    (tmp_path / "checkpoints" / f".{CHECKPOINT}.{2**40}.tmp").write_bytes(b"left by a killed process")
    assert len(run(tmp_path, params_for(bert)).history) == 3
    assert "unreadable" in capsys.readouterr().err
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_run_whose_history_was_never_written_is_not_run_again(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path, params_for(bert))
    weights = (tmp_path / "classifier" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "classifier")  # as DVC does before it runs the stage again
    again = run(tmp_path, params_for(bert))
    assert "resumes" in capsys.readouterr().err
    assert (again.history, again.examples_per_second) == (first.history, 0.0)
    assert (tmp_path / "classifier" / "model.safetensors").read_bytes() == weights
    clear_checkpoints(tmp_path / "checkpoints")
    assert not any((tmp_path / "checkpoints").glob("*"))


def test_the_best_epoch_is_saved_not_the_last(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([loop._Scores(1.0, 0.2), loop._Scores(1.0, 0.9), loop._Scores(1.0, 0.3)])
    monkeypatch.setattr(loop, "_validate", lambda *_: next(scores))
    saved: dict[int, dict[str, torch.Tensor]] = {}
    original = loop.save_best

    def remember(folder: Path, epoch: int, model: Any) -> None:
        saved[epoch] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        original(folder, epoch, model)

    monkeypatch.setattr(loop, "save_best", remember)
    result = run(tmp_path, params_for(bert))
    assert (result.best_epoch, list(saved)) == (2, [1, 2])
    weights = load_file(tmp_path / "classifier" / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved[2].items())


def test_early_stopping_and_ties(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Equal macro-F1: the lower loss is the better epoch; without one, the earlier.
    scores = [(0.9, 0.5), (0.8, 0.5), (0.8, 0.5), (0.7, 0.4), (0.1, 0.9)]
    waiting = iter(loop._Scores(*score) for score in scores)
    monkeypatch.setattr(loop, "_validate", lambda *_: next(waiting))
    result = run(tmp_path, params_for(bert, epochs=5, patience=3))
    assert len(result.history) == 4
    assert result.best_epoch == 2


def test_a_tie_does_not_end_the_wait_for_a_better_epoch(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [(0.9, 0.4), (0.9, 0.5), (0.8, 0.5), (0.7, 0.5), (0.6, 0.9)]
    waiting = iter(loop._Scores(*score) for score in scores)
    monkeypatch.setattr(loop, "_validate", lambda *_: next(waiting))
    result = run(tmp_path, params_for(bert, epochs=5, patience=2))
    assert [record.validation_macro_f1 for record in result.history] == [0.4, 0.5, 0.5, 0.5]
    assert result.best_epoch == 4  # the lower loss


def test_class_weights_and_row_weights_move_the_model(bert: Path, tmp_path: Path) -> None:
    def share_of_agua(name: str, table: pa.Table, weights: dict[str, float] | None) -> float:
        run(
            tmp_path / name,
            params_for(bert, epochs=1, learning_rate=1e-3),
            table=table,
            class_weights=weights,
        )
        model, encoder, _ = load_classifier(tmp_path / name / "classifier")
        logits = predict_logits(model, encoder, table["text"].to_pylist())
        return float(torch.softmax(torch.from_numpy(logits), dim=1)[:, 0].mean())

    table = tiny_messages(n=40)
    heavy = [10.0 if labels == ["agua"] else 1.0 for labels in table["labels"].to_pylist()]
    by_row = table.set_column(table.column_names.index("weight"), "weight", pa.array(heavy))
    plain = share_of_agua("plain", table, None)
    assert share_of_agua("classes", table, {"agua": 10.0, "luz": 1.0, "pagos": 1.0}) > plain + 0.1
    assert share_of_agua("rows", by_row, None) == pytest.approx(
        share_of_agua("classes2", table, {"agua": 10.0}), abs=1e-6
    )


def test_a_diverging_run_names_the_batch_and_keeps_the_checkpoint(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(tmp_path / "whole", params_for(bert))
    original, calls, asked = Objective.__call__, 0, torch.empty(0)

    def explode(
        self: Objective, logits: torch.Tensor, targets: torch.Tensor, progress: float
    ) -> torch.Tensor:
        nonlocal calls, asked
        calls += 1
        losses = original(self, logits, targets, progress)
        if calls != 4:
            return losses
        asked = targets
        return losses / (torch.arange(len(losses)) != 2)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", explode)
        with pytest.raises(
            UserError,
            match=r"loss is not a number.*ids (m0-000\d\d, )+m0-000\d\d\).*lower train\.learning_rate",
        ) as caught:
            run(tmp_path / "parts", params_for(bert))
    # The ids are those of the batch, the one that is to blame first.
    named = [int(name) for name in re.findall(r"m0-(\d+)", str(caught.value))]
    order = [2, *(number for number in range(len(asked)) if number != 2)]
    assert [number % len(LABELS) for number in named] == asked[order].tolist()
    tensors = load_file(tmp_path / "parts" / "checkpoints" / CHECKPOINT)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    # Had it been a bad day of the machine alone, the run could go on.
    assert run(tmp_path / "parts", params_for(bert)).history == whole.history
    assert "resumes" in capsys.readouterr().err


def change_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(
        place, table.schema.field(place), pa.array(values, table.schema.field(place).type)
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (tiny_messages(n=40).slice(0, 0), "train: the table has no rows"),
        (
            change_column(tiny_messages(n=3), "labels", [["agua"]] * 3),
            "all training rows have the one label 'agua'",
        ),
        (
            change_column(tiny_messages(n=3), "labels", [["agua"], ["luz"], ["gas"]]),
            "train: .*'gas' is not among",
        ),
        (change_column(tiny_messages(n=3), "weight", [1.0, -1.0, 1.0]), "train: column weight"),
    ],
)
def test_unusable_data(table: pa.Table, message: str, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, params_for(bert), table=table)
    assert not (tmp_path / "classifier").exists()


def test_multilabel_without_any_label(bert: Path, tmp_path: Path) -> None:
    table = change_column(tiny_messages("multilabel", 3), "labels", [[], [], []])
    with pytest.raises(UserError, match="no training row has a label"):
        run(tmp_path, params_for(bert), "multilabel", table=table)


def test_class_weights_of_an_unknown_label(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"balance\.json: class_weights: 'gas'"):
        run(tmp_path, params_for(bert), class_weights={"gas": 1.0})


@pytest.mark.parametrize("freeze", ["none", "embeddings"])
def test_a_tokenizer_with_more_tokens_than_the_table_has_rows(freeze: str, tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["uenas"])
    tokenizer.save(str(folder / "tokenizer.json"))
    message = (
        rf"^train\.backbone: .*b: its tokenizer has the token 'uenas' with the id {rows}, .* {rows} rows"
    )
    with pytest.raises(UserError, match=message):
        run(tmp_path, params_for(folder, freeze=freeze))
    assert not (tmp_path / "classifier").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_texts_longer_than_the_backbone(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.max_length: 128 is more than the 64 positions"):
        run(tmp_path, params_for(bert, max_length=128))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.device: cuda"):
        run(tmp_path, params_for(bert, device="cuda"))


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for tiles, vectors, speedup, expected in (
        (True, True, 0.5, "bf16"),
        (True, False, 0.5, "bf16"),
        (False, True, 2.0, "bf16"),
        (False, True, 1.1, "fp32"),
        (False, True, 0.5, "fp32"),
        (False, False, 2.0, "fp32"),
    ):
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda tiles=tiles: tiles)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda vectors=vectors: vectors)
        monkeypatch.setattr("afina.training.forward.bf16_speedup", lambda speedup=speedup: speedup)
        assert loop.choose_precision("auto", cpu) == expected
        assert loop.choose_precision("bf16", cpu) == "bf16"
        assert loop.choose_precision("fp32", cpu) == "fp32"
    monkeypatch.delattr("torch.cpu._is_avx512_bf16_supported")  # as older versions of torch are
    monkeypatch.delattr("torch.cpu._is_amx_tile_supported")
    assert loop.choose_precision("auto", cpu) == "fp32"


def test_the_speed_of_bfloat16_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(rows: torch.Tensor, weight: torch.Tensor) -> float:
        assert torch.get_num_threads() == 1
        assert rows.shape[1] == weight.shape[1]
        calls.append(rows.dtype)
        noise = 0.0 if len(calls) in (21, 22) else 5.0
        return noise + (3.0 if rows.dtype == torch.float32 else 2.0)

    calls: list[torch.dtype] = []
    monkeypatch.setattr(forward, "_seconds", seconds)
    threads = torch.get_num_threads()
    assert forward.bf16_speedup.__wrapped__() == 1.5
    assert torch.get_num_threads() == threads
    assert calls.count(torch.float32) == calls.count(torch.bfloat16)
    monkeypatch.undo()
    assert 0.01 < forward.bf16_speedup.__wrapped__() < 100
    assert forward.bf16_speedup() == forward.bf16_speedup()


CALM = {
    "dropout": 0.0,
    "backbone_dropout": 0.0,
    "epochs": 2,
    "learning_rate": 1e-3,
    "head_learning_rate": 1e-2,
}

# Runs that are made by one process and by two: name, parameters, training rows. 43 rows in batches of 8 and 7
# do not share out evenly; 21 rows in batches of 2 leave one process without an example in one update. The
# sampler draws rows of the rarest class several times, at times on both processes.
SHARED: dict[str, tuple[dict[str, Any], int]] = {
    "uneven": (CALM, 43),
    "idle": (CALM | {"batch_size": 2, "gradient_accumulation": 2, "ema": 0.9, "epochs": 1}, 21),
    "drawn": (CALM | {"sampler": "class_balanced", "batch_size": 16}, 43),
    "lexical": (CALM | {"lexical": True, "patience": 3}, 43),
}
ALONE = {"epochs": 3, "head": [16], "patience": 3}  # with dropout: to be killed

UNDER_TORCHRUN = """
import json, os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
import test_training as tests
from afina.training import loop

folder, bert, rank = Path({folder!r}), Path({bert!r}), os.environ["RANK"]
kill_at = {kill_at!r}
opened = []
if rank != "0":
    def watch(event, arguments):
        writes = event in ("os.rename", "os.mkdir", "os.remove") or (event == "open" and "r" != arguments[1])
        if writes and str(arguments[0]).startswith(str(folder)):
            opened.append([event, str(arguments[0]), str(arguments[1])])
    sys.addaudithook(watch)

seen, log = [], {{}}
update, advance = loop.Engine.update, loop.Progress.advance

def watched(self, examples, batches, number):
    updated = update(self, examples, batches, number)
    seen.append([number, updated.rows.tolist()])
    return updated

def dies(self, *arguments):
    advance(self, *arguments)
    if len(seen) == kill_at and rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    loop.Engine.update = watched
    if kill_at:
        for name, (params, rows) in tests.SHARED.items():
            tests.run_imbalanced(folder / name, bert, params, rows)
            log[name], seen[:] = list(seen), []
        tests.run_imbalanced(folder / "whole", bert, tests.ALONE, 43)
        log["whole"], seen[:] = list(seen), []
        Path({logs!r}, "log" + rank + ".json").write_text(json.dumps([log, opened]))
        loop.Progress.advance = dies
    result = tests.run_imbalanced(folder / "parts", bert, tests.ALONE, 43)
    assert not kill_at
    assert result.is_main_process == (rank == "0")
    assert loop._largest(loop.Accelerator(cpu=True), 1 + int(rank)) == 2
    loop.choose_precision = lambda *_: ("fp32", "bf16")[int(rank)]  # measured differently
    assert tests.run_imbalanced(folder / "agreed", bert, tests.ALONE, 43).precision == "fp32"
    Path({logs!r}, "resumed" + rank + ".json").write_text(json.dumps([{{"parts": seen}}, opened]))
"""


def run_imbalanced(folder: Path, bert: Path, params: dict[str, Any], rows: int) -> TrainingResult:
    """A run whose last class has few rows; its history is left in a file."""
    table = tiny_messages(n=rows)
    few = [["agua"] if number % 3 == 2 and number > 8 else None for number in range(rows)]
    labels = [new or old for new, old in zip(few, table["labels"].to_pylist(), strict=True)]
    device = "cpu" if torch.cuda.is_available() else "auto"  # as nobody would set it who has no GPU
    result = run(
        folder, params_for(bert, device=device, **params), table=change_column(table, "labels", labels)
    )
    if result.is_main_process:
        (folder / "history.json").write_text(json.dumps([asdict(record) for record in result.history]))
    return result


def torchrun(script: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )


def test_two_processes_share_the_work(bert: Path, tmp_path: Path) -> None:
    """Without dropout two processes compute what one does, up to rounding; killed, they go on together."""
    here, two, logs = Path(__file__).parent, tmp_path / "two", tmp_path / "logs"
    two.mkdir()
    logs.mkdir()
    script = tmp_path / "two.py"
    values = {
        "paths": [str(here), str(here.parent), str(Path(loop.__file__).parents[2])],
        "folder": str(two),
        "logs": str(logs),
        "bert": str(bert),
    }
    script.write_text(UNDER_TORCHRUN.format(**values, kill_at=11), encoding="utf-8")
    done = torchrun(script)
    assert done.returncode != 0
    assert len(list(logs.iterdir())) == 2, done.stderr
    assert (two / "parts" / "checkpoints" / CHECKPOINT).exists()
    assert not (two / "parts" / "classifier").exists()
    script.write_text(UNDER_TORCHRUN.format(**values, kill_at=None), encoding="utf-8")
    done = torchrun(script)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resumes from its checkpoint: epoch 2, update") == 1

    # Killed in its second epoch and run again: bit for bit.
    assert_same_classifier(two / "whole", two / "parts")
    assert (two / "whole" / "history.json").read_text() == (two / "parts" / "history.json").read_text()

    watched = {name: json.loads((logs / f"{name}.json").read_text()) for name in ("log0", "log1")}
    for name, (params, rows) in SHARED.items():
        run_imbalanced(tmp_path / "one" / name, bert, params, rows)
        histories = [
            json.loads((folder / name / "history.json").read_text()) for folder in (tmp_path / "one", two)
        ]
        for one, other in zip(*histories, strict=True):
            assert one == pytest.approx(other, abs=1e-4), name
        weights = [
            load_file(folder / name / "classifier" / "model.safetensors")
            for folder in (tmp_path / "one", two)
        ]
        for key, tensor in weights[0].items():
            torch.testing.assert_close(weights[1][key], tensor, atol=2e-4, rtol=1e-2)

        # Every row of an epoch, once for each time that it was drawn, on one of the processes.
        size, accumulated = params.get("batch_size", 8), params.get("gradient_accumulation", 1)
        updates = math.ceil(math.ceil(rows / size) / accumulated)
        halves = [watched[f"log{rank}"][0][name] for rank in (0, 1)]
        assert [number for number, _ in halves[0]] == list(range(updates * params["epochs"]))
        assert [number for number, _ in halves[1]] == list(range(updates * params["epochs"]))
        for epoch in range(params["epochs"]):
            part = slice(epoch * updates, (epoch + 1) * updates)
            together = [row for half in halves for _, chosen in half[part] for row in chosen]
            if "sampler" in params:
                assert len(together) == rows
                assert len(set(together)) < rows
            else:
                assert sorted(together) == list(range(rows))
        counts = [sum(len(chosen) for _, chosen in half) for half in halves]
        assert abs(counts[0] - counts[1]) <= len(halves[0]) * accumulated
    assert any(not chosen for _, chosen in watched["log1"][0]["idle"]) or any(
        len(chosen) % 2 for _, chosen in watched["log0"][0]["idle"]
    )

    # The second process writes nothing.
    assert watched["log1"][1] == []
    assert json.loads((logs / "resumed1.json").read_text())[1] == []
    for name in (*SHARED, "whole", "parts"):
        assert {path.name for path in (two / name).iterdir()} == {"classifier", "checkpoints", "history.json"}


def test_processes_that_do_not_find_each_other_are_an_error(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = types.SimpleNamespace(num_processes=1)
    monkeypatch.setattr(loop, "Accelerator", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="train: started as one of 2 processes that do not find each other"):
        run(tmp_path, params_for(bert))
    assert not list(tmp_path.iterdir())


def test_table_hash_sees_content_not_layout() -> None:
    table = tiny_messages(n=20)
    pieces = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    assert loop.table_sha256(pieces) == loop.table_sha256(table)
    texts = table["text"].to_pylist()
    changed = change_column(table, "text", [*texts[:-1], texts[-1] + "."])
    assert loop.table_sha256(changed) != loop.table_sha256(table)
