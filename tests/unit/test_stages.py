"""What stages share: files, parameters, summaries and errors."""

from __future__ import annotations

import csv
import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina import table
from afina.errors import UserError
from afina.files import atomic_path, read_json, write_csv, write_json, write_text
from afina.params.base import load_section
from afina.params.train import TrainParams
from afina.params.whole import check_whole
from afina.stage import note_unwatched, stage

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_any_text_comes_back_from_a_csv(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    write_csv(path, ("a", "b"), rows)
    with path.open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [["a", "b"], *map(list, rows)]


def test_csv_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, ("text", "n"), [("one\rline", 1), ("ñandú", 0.5)])
    assert path.read_bytes() == 'text,n\n"one\rline",1\nñandú,0.5\n'.encode()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_json(path, {"ñ": 1})

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(path) == {"ñ": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [file.name for file in path.iterdir()] == ["second"]


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.mkdir()
    (path / "kept.txt").touch()
    with pytest.raises(IsADirectoryError), atomic_path(path) as temporary:
        temporary.touch()
    assert [file.name for file in path.iterdir()] == ["kept.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_never_replaces_a_device_or_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"  # as /dev/null, which would be gone for the whole system
    os.mkfifo(path)
    with pytest.raises(UserError, match="pipe: a device or a pipe, which no file may replace"):
        write_text(path, "x")
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    for name in (f".model.onnx.{2**40}.tmp", f".model.onnx.{os.getppid()}.tmp", ".model.onnx.mine.tmp"):
        (tmp_path / name).write_text("half of")
    (tmp_path / f".folder.{2**40}.tmp").mkdir()
    write_json(tmp_path / "model.onnx", {})
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
    names = {".model.onnx.mine.tmp", f".model.onnx.{os.getppid()}.tmp", "model.onnx", "folder"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_terminated_stage_removes_what_it_was_writing(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom afina.files import atomic_path\n"
        "from afina.stage import stage\n\n@stage('slow')\ndef main():\n"
        f"    with atomic_path(Path({str(tmp_path / 'out')!r})) as temporary:\n"
        "        temporary.touch()\n        print('writing', flush=True)\n        time.sleep(60)\n\nmain()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stdout.close()
    assert not list(tmp_path.iterdir())


def test_json_that_is_not_there_or_broken_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    with pytest.raises(UserError, match=r"no such file; run `dvc repro`"):
        read_json(path)
    path.write_text('{\n"a": }')
    with pytest.raises(UserError, match=r"broken.json: line 2: not valid JSON"):
        read_json(path)
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n"a": }'


def test_a_stage_says_its_summary_or_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stage("demo")(lambda: "3 rows")()
    assert capsys.readouterr().out.startswith("demo: 3 rows (0.0 s)")
    stage("demo")(lambda: None)()
    assert capsys.readouterr().out == ""


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> str:
        raise UserError("params.yaml: no such thing")

    with pytest.raises(SystemExit, match="2"):
        stage("demo")(fail)()
    captured = capsys.readouterr()
    assert captured.err == "demo: error: params.yaml: no such thing\n"
    assert captured.out == ""


def test_a_full_disk_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.parquet"
    rows = pa.Table.from_pylist(
        [{"id": str(n), "source": "s", "text": f"{n * n * 7919}", "labels": []} for n in range(20_000)],
        schema=table.SCHEMA,
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # stands for a disk with so much room
    try:
        for write in (lambda: table.write(rows, path), lambda: write_text(path, "x" * 5000)):
            with pytest.raises(SystemExit, match="2"):
                stage("demo")(write)()
            error = capsys.readouterr().err
            assert error == (
                f"demo: error: {path}: cannot be written (File too large); make room for it and run again\n"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())

    def other() -> str:
        raise OSError(errno.EIO, "Input/output error", "somewhere")

    with pytest.raises(OSError, match="somewhere"):
        stage("demo")(other)()


def test_a_file_without_access_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a spreadsheet is open in Excel, or a report belongs to somebody else."""

    def refuse(file: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    path = tmp_path / "report.json"
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for run, patched, where in (
        (lambda: refuse("data/source/a.xlsx"), "os.replace", "data/source/a.xlsx"),
        (lambda: write_json(path, 1), "pathlib.Path.write_bytes", path),
        (lambda: write_json(path, 1), "os.replace", path),
    ):
        with monkeypatch.context() as context:
            context.setattr(patched, refuse)
            with pytest.raises(SystemExit, match="2"):
                stage("demo")(run)()
        assert capsys.readouterr().err == (
            f"demo: error: {where}: no access; close the program that has it open, or change the permissions "
            "of it and of its folder, and run again\n"
        )


def test_a_mistake_in_another_section_is_named_before_the_stage_runs(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("seed: 1\ntrain: {epochs: 1}\nexport: {int_8: true}\n")
    with pytest.raises(UserError, match=r"export.int_8: unknown parameter; did you mean 'int8'\?"):
        load_section(TrainParams, path)
    path.write_text("train: {epochs: 1}\nexport: {int8: true}\nsplit: [1]\n")
    with pytest.raises(UserError, match=r"split: expected a mapping of parameters, found \[1\]"):
        load_section(TrainParams, path)
    path.write_text("train: {epochs: 1}\nexport: {int8: true}\n")
    assert load_section(TrainParams, path).epochs == 1


def test_files_that_a_later_stage_reads_are_asked_for_at_once(tmp_path: Path) -> None:
    for text, message in (
        ("behave: {cases: nada.yaml}", "behave.cases: nada.yaml: no such file"),
        ("clean: {label_map: nada.csv}", "clean.label_map: nada.csv: no such file"),
        ("adapt: {glossary: nada.csv}", "adapt.glossary: nada.csv: no such file"),
        (
            "adapt: {unlabelled: [{path: nada.csv, text: t}]}",
            "adapt.unlabelled.0.path: nada.csv: no such file",
        ),
    ):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            check_whole(tmp_path)
    for text in ("adapt: {glossary: nada.csv, vocabulary: none}", "clean: {label_map: {a: b}}", "split:"):
        (tmp_path / "params.yaml").write_text(text)
        check_whole(tmp_path)
    (tmp_path / "params.yaml").write_text("clean: {label_map: nada.csv}")
    (tmp_path / "nada.csv").write_text("raw,label")
    check_whole(tmp_path)


def test_parameters_that_dvc_watches_are_asked_for_at_once(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  split: {cmd: x, params: [split, seed]}\n  analyze: {cmd: x, params: [analyze]}\n"
        "  report: {cmd: x, params: [report.language, report.title, train.precision, other.yaml: [a]]}\n"
    )
    (tmp_path / "params.yaml").write_text("split: {}\nanalyze:\nreport: {title: null}\n")
    with pytest.raises(UserError) as caught:
        check_whole(tmp_path)
    assert str(caught.value) == (
        "params.yaml: DVC needs some parameters in the file even where they have their defaults; add "
        "seed: 42, report.language: es, train.precision: auto"
    )
    added = "split: {}\nanalyze:\nreport: {title: null, language: es}\ntrain: {precision: auto}\nseed: 1\n"
    (tmp_path / "params.yaml").write_text(added)
    check_whole(tmp_path)


def test_a_stage_says_which_of_its_files_dvc_does_not_watch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    note_unwatched("clean", ["data/source/a.csv", "maps/a.csv", "data/source/../b.csv"], Path("data/source"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" is outside ")[0] for line in lines] == [
        "clean: note: maps/a.csv",
        "clean: note: data/source/../b.csv",
    ]
    assert "--single-item clean" in lines[0]


def test_dvc_watches_what_a_link_to_a_file_leads_to_and_no_linked_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("data/source", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "elsewhere" / "a.csv").touch()
    Path("data/source/a.csv").symlink_to(tmp_path / "elsewhere" / "a.csv")
    Path("data/source/folder").symlink_to(tmp_path / "elsewhere")
    note_unwatched("extract", ["data/source/a.csv"], Path("data/source"))
    assert capsys.readouterr().err == ""
    note_unwatched("extract", ["data/source/folder", "data/source/folder/a.csv"], Path("data/source"))
    assert [line.split(" is outside ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "extract: note: data/source/folder",
        "extract: note: data/source/folder/a.csv",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clean: {top_k: 3}\nseed: 1\nclean: {min_count: 2}\n", "'clean' is on line 1 and again on line 3"),
        ("clean:\n  top_k: 3\n  top_k: 4\n", "'top_k' is on line 2 and again on line 3"),
        ("extract:\n  sources:\n  - {path: a, path: b}\n", "'path' is on line 3 and again on line 3"),
        ("clean: {min_count: yes}\n", "clean.min_count: input should be a number, found True"),
        (
            "extract: {sources: [{path: a.csv, text: t, label: l, skip_rows: yes}]}\n",
            "extract.sources.0.skip_rows: input should be a number, found True",
        ),
        ("report: {title: 2025-13-45}\n", "not valid YAML: month must be in 1..12"),
        ("split: {near_duplicates: true}\n", "split.near_duplicates: input should be a number, found True"),
    ],
)
def test_what_yaml_would_pass_over_is_a_users_mistake(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        load_section(TrainParams, path)


def test_numbers_that_are_text_to_yaml_and_merge_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: &base\n  learning_rate: 5e-5\n  epochs: 2\nadapt: {epochs: 1}\n")
    assert load_section(TrainParams, path).learning_rate == 5e-5
    path.write_text("train:\n  <<: {epochs: 2, batch_size: 4}\n  epochs: 3\n")
    train = load_section(TrainParams, path)
    assert (train.epochs, train.batch_size) == (3, 4)


def test_params_in_another_encoding_are_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("# señal\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"params\.yaml: not UTF-8; save it in that encoding"):
        load_section(TrainParams, path)
