"""Opening a file: once a process, and with one clear line where it cannot be."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from afina.errors import UserError
from afina.export.graph import Graph, write
from afina.runtime import container, loading
from afina.runtime.classifier import Classifier
from afina.runtime.container import read_properties
from afina.runtime.loading import load_model
from toy_artifact import LABELS, graph_hash, settled, toy_metadata, toy_model, toy_tokenizer, write_toy

TEXTS = ["agua luz", "", "nada " * 30]


# ----------------------------------------------------------------------------------------- sharing


def test_one_file_is_opened_once(tmp_path: Path) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    (tmp_path / "link.onnx").symlink_to(path)
    model = load_model(path)
    assert load_model(path) is model
    assert load_model(tmp_path / "link.onnx") is model
    assert load_model(path, threads=1) is not model
    assert Classifier(path, token_budget=7).encoder is model.encoder


def test_threads_that_ask_at_once_get_one(tmp_path: Path) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    starts = threading.Barrier(8)

    def ask(_: int) -> Classifier:
        starts.wait(timeout=60)
        return Classifier(path)

    with ThreadPoolExecutor(8) as executor:
        classifiers = list(executor.map(ask, range(8)))
    assert len({id(classifier.encoder) for classifier in classifiers}) == 1


def test_memory_is_free_when_nobody_uses_it(tmp_path: Path) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    gc.disable()
    try:
        classifiers = [Classifier(path), Classifier(path)]
        model = weakref.ref(classifiers[0]._model)
        session = weakref.ref(classifiers[0]._model._session)
        classifiers.pop()
        assert model() is not None
        classifiers.pop()
        assert model() is None
        assert session() is None
    finally:
        gc.enable()


def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    old = Classifier(path)
    other = write_toy(tmp_path / "other.onnx", labels=("AGUA", "LUZ", "PAGOS"))
    os.replace(settled(other), path)
    assert Classifier(path).labels == ("AGUA", "LUZ", "PAGOS")
    assert old.predict(["agua"])[0].label == "agua"


def test_a_file_written_in_place_is_opened_anew_though_its_date_says_nothing(tmp_path: Path) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    status = path.stat()
    old = Classifier(path)
    write_toy(path, labels=("AGUA", "LUZ", "PAGOS"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert Classifier(path).labels != old.labels


def test_a_file_written_just_now_is_not_shared(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx")
    assert load_model(path) is not load_model(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_opens_its_own(tmp_path: Path) -> None:
    path = settled(write_toy(tmp_path / "model.onnx"))
    code = (
        "import os\n"
        "from afina.runtime.loading import load_model\n"
        f"from pathlib import Path\npath = Path({str(path)!r})\n"
        "model = load_model(path, 2)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(3 if load_model(path, 2) is model else 4)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "4", done.stderr


# ------------------------------------------------------------------------------- processors


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 1 << 30),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1 << 30),
        ({"cpu.max": "nonsense"}, 1 << 30),
        ({}, 1 << 30),
    ],
)
def test_processors_of_a_container(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert loading._quota(tmp_path) == expected


def test_as_many_threads_as_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(loading, "_quota", lambda: 2)
    assert loading.usable_processors() == 2
    monkeypatch.setattr(loading, "_quota", lambda: 1 << 30)
    assert loading.usable_processors() == 0  # all of them: onnxruntime's own choice
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert loading.usable_processors() == 1


# ---------------------------------------------------------------------------------- the container


def test_properties_are_those_onnx_reads(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx", labels=("agua", "ñandú", "😀"))
    expected = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert read_properties(path) == expected
    written = toy_metadata(labels=("agua", "ñandú", "😀")).to_properties()
    assert read_properties(path) == written | graph_hash(toy_model())


def test_other_fields_of_the_message_are_passed_over(tmp_path: Path) -> None:
    model = toy_model()
    model.producer_name, model.doc_string, model.model_version = "ñ" * 300, "x" * 70_000, 2**40
    path = write_toy(tmp_path / "model.onnx", model=model)
    content = path.read_bytes()
    unknown = bytes(
        [30 << 3 & 0x7F | 0x80 | 5, 30 >> 4, 1, 2, 3, 4]
    )  # field 30, four bytes, as of a later ONNX
    path.write_bytes(unknown + content)
    assert read_properties(path) == toy_metadata().to_properties() | graph_hash(model)


# ------------------------------------------------------------------------ files that are no model


def refusal(path: Path) -> str | None:
    """The one line that refuses a file; None if it is not refused, and then it predicts."""
    try:
        classifier = Classifier(path, threads=1)
        assert classifier.predict_proba(TEXTS).shape == (len(TEXTS), len(classifier.labels))
    except UserError as error:
        message = str(error)
    else:
        return None
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"text,label\nhola,agua\n", "not an ONNX model"),
        ("¿ñandú? ".encode() * 99, "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "not an ONNX model"),
        (b"\x08\x0a", "not an ONNX model"),  # a message, but without a graph
        (b"\x3a\xff\xff\xff\x7f", "or cut off: 5 bytes of at least 268,435,460"),
        (b"\xff" * 40, "not an ONNX model"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert message in str(refusal(tmp_path / "model.onnx"))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_toy(tmp_path / "model.onnx")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read (Permission denied)" in str(refusal(path))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
@example(b"\x3a\x00")
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert refusal(tmp_path / "model.onnx")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_is_said_to_be(tmp_path: Path, part: float) -> None:
    content = write_toy(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(part * len(content))])
    assert refusal(tmp_path / "cut.onnx")


def test_a_file_cut_off_between_two_entries_is_said_to_be(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "whole.onnx")
    model = onnx.load(path)
    write(Graph(model, fused=False), read_properties(path), path)
    whole = onnx.load(path)
    for left in range(len(whole.metadata_props)):
        cut = onnx.ModelProto()
        cut.CopyFrom(whole)
        del cut.metadata_props[left:]
        content = cut.SerializeToString()
        assert path.read_bytes().startswith(content)
        (tmp_path / "cut.onnx").write_bytes(content)
        assert refusal(tmp_path / "cut.onnx")


def flipped(content: bytes, bits: list[int]) -> bytes:
    """Some of its bits the other way round."""
    damaged = bytearray(content)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def graph_place(path: Path) -> range:
    """Where the graph lies in a toy file, in bytes."""
    graph = onnx.load(path).graph.SerializeToString()
    start = path.read_bytes().index(graph)
    return range(start, start + len(graph))


FLIPPER = """
import json, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_runtime_loading import flipped, graph_place, refusal
whole, damaged, refused = Path({whole!r}), Path({damaged!r}), 0
graph = graph_place(whole)
for bits in json.loads(sys.stdin.read()):
    damaged.write_bytes(flipped(whole.read_bytes(), bits))
    print(bits, flush=True)
    reason = refusal(damaged)
    if all(bit // 8 in graph for bit in bits):
        assert "damaged" in str(reason), reason
        refused += 1
print(refused, "in the graph")
"""


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_flipped_bits_never_crash_the_process(tmp_path: Path, task: Any) -> None:
    """In a process of its own: native code reads the file, and a crash would take the tests with it.

    Those in the graph are all noticed; elsewhere the metadata may still be metadata.
    """
    whole = write_toy(tmp_path / "whole.onnx", task)
    bits = whole.stat().st_size * 8
    draws = np.random.default_rng(20260101).integers(0, bits, (250, 3))
    flips = [[int(bit) for bit in draw[: 1 + turn % 3]] for turn, draw in enumerate(draws)]
    code = FLIPPER.format(
        folder=str(Path(__file__).parent), whole=str(whole), damaged=str(tmp_path / "damaged.onnx")
    )
    folders = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(flips),
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": folders, "RUST_BACKTRACE": "0"},
    )
    told = (done.returncode, done.stdout[-300:], done.stderr[-3000:])
    assert done.stdout.endswith(" in the graph\n"), told
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 30, told


def weight_bit(path: Path) -> int:
    """A bit whose change makes one weight of a toy another number, and nothing else."""
    weight = np.array([1.0], dtype=np.float32).tobytes()
    return 8 * (path.read_bytes().index(weight, graph_place(path).start) + 3)  # a quarter of it


def test_a_flipped_bit_of_a_weight_is_refused(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx")
    path.write_bytes(flipped(path.read_bytes(), [weight_bit(path)]))
    message = str(refusal(path))
    assert message.endswith(
        "damaged: its graph has another SHA-256 than its metadata; copy or download it again"
    )


def test_a_file_without_the_hash_of_its_graph_is_read_as_before(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "old.onnx", properties=toy_metadata().to_properties())
    before = Classifier(path).predict_proba(["agua luz"])
    path.write_bytes(flipped(path.read_bytes(), [weight_bit(path)]))
    assert refusal(path) is None
    assert np.abs(Classifier(path).predict_proba(["agua luz"]) - before).max() > 0.01  # so a bit does harm


def test_other_metadata_leave_the_hash_true(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx")
    model = onnx.load(path)
    helper.set_model_props(model, {**read_properties(path), "note": "ours"})
    path.write_bytes(model.SerializeToString())
    assert read_properties(path)["note"] == "ours"
    assert refusal(path) is None


def test_a_graph_is_hashed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_toy(tmp_path / "model.onnx")
    monkeypatch.setattr(container, "_CHUNK", 100)
    assert refusal(path) is None
    assert len(graph_place(path)) > 300
    path.write_bytes(flipped(path.read_bytes(), [8 * graph_place(path).stop - 1]))
    assert "damaged" in str(refusal(path))


def test_onnxruntime_prints_nothing_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = toy_model()
    model.graph.node[0].op_type = "Gathér"
    known = toy_metadata().to_properties()  # without a hash, which would tell before onnxruntime does
    content = write_toy(tmp_path / "model.onnx", model=model, properties=known).read_bytes()
    (tmp_path / "model.onnx").write_bytes(content.replace("Gathér".encode(), b"Gath\xff\xffr"))
    assert "not a usable ONNX model" in str(refusal(tmp_path / "model.onnx"))
    model.graph.node[0].op_type = "Sorcery"
    message = str(refusal(write_toy(tmp_path / "model.onnx", model=model)))
    assert "Sorcery" in message
    assert message.count(str(tmp_path)) == 1
    assert capfd.readouterr() == ("", "")


# ----------------------------------------------------------------------- models that cannot work


def test_a_tokenizer_that_fails_at_its_first_text_is_refused(tmp_path: Path) -> None:
    unknown, special = json.loads(toy_tokenizer()), json.loads(toy_tokenizer())
    unknown["model"]["unk_token"] = "[NONE]"
    special["post_processor"]["single"][0]["SpecialToken"]["id"] = "[NONE]"  # a panic of native code
    for tokenizer in (unknown, special):
        path = write_toy(tmp_path / "model.onnx", tokenizer=json.dumps(tokenizer))
        assert "metadata tokenizer: not readable" in str(refusal(path))


def test_a_padding_that_the_model_does_not_know_is_refused(tmp_path: Path) -> None:
    assert "cannot be computed" in str(refusal(write_toy(tmp_path / "model.onnx", pad_token_id=900)))


def test_other_types_are_refused(tmp_path: Path) -> None:
    model = toy_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    path = write_toy(tmp_path / "model.onnx", model=model)
    assert "input_ids to be tensor(int64), found tensor(int32)" in str(refusal(path))


def test_what_is_no_probability_is_refused(tmp_path: Path) -> None:
    model = toy_model()
    activation = model.graph.node[-1]
    activation.CopyFrom(helper.make_node("Sqrt", ["logits"], ["probabilities"]))  # of BIAS, below zero
    path = write_toy(tmp_path / "model.onnx", model=model)
    assert f"probabilities for 2 texts and {len(LABELS)} labels" in str(refusal(path))


def test_a_batch_that_cannot_be_computed_is_a_user_error(tmp_path: Path) -> None:
    classifier = Classifier(write_toy(tmp_path / "model.onnx"))
    with pytest.raises(UserError, match="a batch of 1 texts of up to 2 tokens cannot be computed") as error:
        classifier.forward([np.array([2, 99_999])])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("version", "briefly"), [("1.20.1", False), ("1.26.0", False), ("1.27.0rc1", True), ("2.0.0", True)]
)
def test_threads_spin_only_where_onnxruntime_keeps_it_short(
    version: str, briefly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    options = loading._session_options(2)
    found = options.get_session_config_entry("session.intra_op.allow_spinning")
    assert found == str(int(briefly))
