"""`afina drift`: what it reads, what it says, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afina import cli
from afina.runtime.classifier import Classifier
from afina.runtime.drift import Reference, Sample, TokenCounter, build_reference
from afina.scoring import Settings, score
from toy_artifact import LABELS, write_toy

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["drift", *map(str, arguments)])
        shown = capsys.readouterr()
        return int(exit_.value.code or 0), shown.out, shown.err

    return run_


@pytest.fixture
def error(run: Run) -> Callable[..., str]:
    """The one line of a command that fails."""

    def error_(*arguments: str | Path) -> str:
        code, out, err = run(*arguments)
        assert code == 2
        assert not out
        assert err.startswith("afina: error: ")
        assert err.count("\n") == 1
        return err.removeprefix("afina: error: ")

    return error_


def texts(seed: int, count: int, shares: Sequence[float] = (0.5, 0.3, 0.2), words: int = 4) -> list[str]:
    """Texts of one label's word and other words, of several lengths."""
    generator = np.random.default_rng(seed)
    found = []
    for at in generator.choice(len(LABELS), count, p=shares):
        others = ["luz", "agua", "pagos"][: generator.integers(0, 2)] + ["calle"] * generator.integers(
            0, words
        )
        found.append(" ".join([LABELS[at]] * 3 + others))
    return found


def reference_of(path: Path, sample: list[str]) -> Reference:
    classifier = Classifier(path)
    counter = TokenCounter(classifier.metadata.tokenizer, classifier.metadata.cleaning)
    return build_reference(
        Sample.of(classifier.predict(sample), *counter.count(sample)),
        classifier.labels,
        classifier.task,
        classifier.metadata.max_length,
    )


def write_model(path: Path, task: Any = "multiclass") -> Path:
    """A toy that holds a reference, as the export stage will write it."""
    plain = write_toy(path, task)
    reference = reference_of(plain, texts(0, 600))
    return write_toy(path, task, reference=reference.to_json())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("toy") / "model.onnx")


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("toy") / "multilabel.onnx", "multilabel")


def write_csv(path: Path, rows: Sequence[str], header: str = "text") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------- what it compares


def test_the_same_kind_of_texts_is_ok(run: Run, model: Path, tmp_path: Path) -> None:
    code, out, _ = run(model, write_csv(tmp_path / "new.csv", texts(1, 600)))
    assert code == 0
    assert out.startswith("ok: ")
    for measure in ("label share", "confidence", "length", "unknown tokens", "truncated"):
        assert f"\n{measure} " in out


def test_other_labels_are_drift(run: Run, model: Path, tmp_path: Path) -> None:
    new = write_csv(tmp_path / "new.csv", texts(1, 600, (0.1, 0.1, 0.8)))
    code, out, _ = run(model, new)
    assert code == 1
    assert out.startswith("drifted: label share")
    assert "Label share, what moved most:" in out
    assert "pagos" in out


def test_longer_texts_with_strange_words_are_drift(run: Run, model: Path, tmp_path: Path) -> None:
    code, out, _ = run(model, write_csv(tmp_path / "new.csv", texts(1, 600, words=40)), "--json")
    assert code == 1
    found = json.loads(out)
    verdicts = {one["measure"]: one["verdict"] for one in found["measures"]}
    assert verdicts["length"] == verdicts["unknown_tokens"] == verdicts["truncated"] == "drifted"
    assert verdicts["label_share"] == "ok"
    assert found["verdict"] == "drifted"
    assert found["limits"] == {"watch": 0.1, "drifted": 0.25, "alpha": 0.05}
    truncated = next(one for one in found["measures"] if one["measure"] == "truncated")
    assert [one["name"] for one in truncated["bins"]] == ["whole", "cut off"]


def test_a_few_texts_are_too_few(run: Run, model: Path, tmp_path: Path) -> None:
    code, out, _ = run(model, write_csv(tmp_path / "new.csv", texts(1, 12)))
    assert code == 0
    assert out.startswith("too little data: ")


def test_limits_are_options(run: Run, model: Path, tmp_path: Path) -> None:
    new = write_csv(tmp_path / "new.csv", texts(1, 600, (0.1, 0.1, 0.8)))
    code, out, _ = run(model, new, "--drifted", "50")
    assert code == 0
    assert out.startswith("watch: ")
    assert run(model, new, "--watch", "40", "--drifted", "50")[0] == 0


def test_every_format_gives_the_same_answer(run: Run, model: Path, tmp_path: Path) -> None:
    new = texts(2, 200)
    write_csv(tmp_path / "a.csv", new)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in new))
    pq.write_table(pa.table({"text": new}), tmp_path / "a.parquet")
    (tmp_path / "parts").mkdir()
    for part, start in enumerate((0, 50)):
        pq.write_table(
            pa.table({"text": new[start:][: 50 + 100 * part]}), tmp_path / "parts" / f"{part}.parquet"
        )
    (tmp_path / "csv").mkdir()
    (tmp_path / "jsonl").mkdir()
    (tmp_path / "csv" / "_SUCCESS").touch()
    for part, rows in enumerate(([], new[:50], [], new[50:])):
        write_csv(tmp_path / "csv" / f"part-{part}.csv", rows)
        (tmp_path / "jsonl" / f"part-{part}.jsonl").write_text(
            "".join(json.dumps({"text": one}) + "\n" for one in rows)
        )
    names = ("a.csv", "a.jsonl", "a.parquet", "parts", "csv", "jsonl")
    answers = [json.loads(run(model, tmp_path / name, "--json")[1])["measures"] for name in names]
    assert answers == [answers[0]] * len(names)
    assert answers[0][0]["new_texts"] == 200


def test_a_file_of_predictions_gives_what_its_texts_give(run: Run, model: Path, tmp_path: Path) -> None:
    new = write_csv(tmp_path / "new.csv", texts(3, 300))
    predicted, prefixed = tmp_path / "predicted.csv", tmp_path / "prefixed.csv"
    for out, prefix in ((predicted, ""), (prefixed, "m_")):
        with pytest.raises(SystemExit):
            cli.main(["predict", str(model), "--file", str(new), "--out", str(out), "--prefix", prefix])
    expected = json.loads(run(model, new, "--json")[1])["measures"]
    assert json.loads(run(model, predicted, "--json")[1])["measures"] == expected
    assert json.loads(run(model, prefixed, "--json", "--prefix", "m_")[1])["measures"] == expected


def test_predictions_without_their_texts(run: Run, model: Path, tmp_path: Path) -> None:
    rows = [f"{LABELS[at % 3]},0.{60 + at % 30}" for at in range(300)]
    new = write_csv(tmp_path / "new.csv", rows, "label,probability")
    _, out, _ = run(model, new)
    assert "Lengths and unknown tokens are not compared: " in out
    assert "new.csv has no column 'text'" in out
    assert "\nlength " not in out


def test_two_files_without_a_model(run: Run, tmp_path: Path) -> None:
    def rows(shares: Sequence[float], seed: int) -> list[str]:
        generator = np.random.default_rng(seed)
        return [f"{LABELS[at]},{generator.beta(8, 2):.6f}" for at in generator.choice(3, 400, p=shares)]

    old = write_csv(tmp_path / "old.csv", rows((0.5, 0.5, 0.0), 1), "label,probability")
    same = write_csv(tmp_path / "same.csv", rows((0.5, 0.5, 0.0), 2), "label,probability")
    other = write_csv(tmp_path / "other.csv", rows((0.0, 0.5, 0.5), 3), "label,probability")
    code, out, _ = run(old, same)
    assert (code, out.split(":")[0]) == (0, "ok")
    assert "--model names the model to count tokens with" in out
    code, out, _ = run(old, other)
    assert code == 1
    assert "Labels without a text in the reference: pagos (" in out
    assert "Labels without a new text: agua (" in out


def test_a_model_predicts_both_files(run: Run, model: Path, tmp_path: Path) -> None:
    old = write_csv(tmp_path / "old.csv", texts(1, 400))
    new = write_csv(tmp_path / "new.csv", texts(2, 400, (0.1, 0.1, 0.8)))
    code, out, _ = run(old, new, "--model", model)
    assert code == 1
    assert out.startswith("drifted: label share")
    assert run(old, old, "--model", model)[1].startswith("ok: ")


def test_several_labels_a_text(run: Run, multilabel: Path, tmp_path: Path) -> None:
    new = texts(4, 300)
    from_texts = json.loads(run(multilabel, write_csv(tmp_path / "new.csv", new), "--json")[1])
    assert [one["measure"] for one in from_texts["measures"]][:2] == ["label_share", "labels_per_text"]
    predictions = Classifier(multilabel).predict(new)
    names = [[score.label for score in one.labels] for one in predictions]
    values = [[score.probability for score in one.labels] for one in predictions]
    confidence = [one.confidence for one in predictions]
    pq.write_table(
        pa.table({"text": new, "label": names, "probability": values, "confidence": confidence}),
        tmp_path / "scored.parquet",
    )
    rows = [
        f"{text},{'|'.join(labels)},{'|'.join(map(str, numbers))},{sure}"
        for text, labels, numbers, sure in zip(new, names, values, confidence, strict=True)
    ]
    write_csv(tmp_path / "scored.csv", rows, "text,label,probability,confidence")
    lines = [
        json.dumps({"text": text, "labels": [{"label": label, "probability": 0.5} for label in labels]})
        for text, labels in zip(new, names, strict=True)
    ]
    (tmp_path / "predicted.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("scored.parquet", "scored.csv"):
        found = json.loads(run(multilabel, tmp_path / name, "--json")[1])
        assert found["measures"] == from_texts["measures"]
        alone = json.loads(run(tmp_path / name, tmp_path / name, "--json")[1])
        assert [one["measure"] for one in alone["measures"]] == [
            "label_share",
            "labels_per_text",
            "confidence",
        ]
    without = json.loads(run(multilabel, tmp_path / "predicted.jsonl", "--json")[1])
    assert "confidence" in without["missing"]
    assert any("Confidence is not compared" in note for note in without["notes"])
    assert without["measures"][0]["bins"] == from_texts["measures"][0]["bins"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_folder_of_scored_parts_is_compared(run: Run, model: Path, tmp_path: Path, suffix: str) -> None:
    new = texts(4, 120)
    write_csv(tmp_path / "new.csv", new)
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in new))
    scored = tmp_path / "scored"
    score(str(tmp_path / f"new.{suffix}"), str(scored), str(model), Settings(chunk=50))
    assert len(list(scored.glob(f"*.{suffix}"))) == 3
    found = json.loads(run(model, scored, "--json")[1])
    assert found["measures"] == json.loads(run(model, tmp_path / "new.csv", "--json")[1])["measures"]


def test_what_is_wrong_in_a_part_names_the_part(
    run: Run, error: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    header = "text,label,probability"
    write_csv(folder / "a.csv", [f"x,{LABELS[0]},0.5"] * 3, header)
    write_csv(folder / "b.csv", [f"x,{LABELS[0]},0.5", f"x,{LABELS[0]},2"], header)
    found = error(model, folder)
    assert found.startswith(f"{folder / 'b.csv'}: line 3: probability: expected a number from 0 to 1")
    write_csv(folder / "b.csv", [f"x,{LABELS[0]},0.5", "x,y,z,a,b"], header)
    notes = json.loads(run(model, folder, "--json")[1])["notes"]
    assert any(
        f"1 row cannot be read and is left out; first: {folder / 'b.csv'}: line 3" in one for one in notes
    )


def test_rows_without_text_and_broken_rows_are_told(run: Run, model: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"text": text}) for text in texts(1, 30)]
    (tmp_path / "new.jsonl").write_text("\n".join([*rows, '{"text": null}', '{"text": "sec']) + "\n")
    _, out, _ = run(model, tmp_path / "new.jsonl")
    assert "new.jsonl: 1 row has no text" in out
    assert "new.jsonl: 1 row cannot be read and is left out; first: line 32: not valid JSON" in out
    assert '"sec' not in out


def test_a_label_that_was_made_safe_for_spreadsheets_is_known(run: Run, tmp_path: Path) -> None:
    old = write_csv(tmp_path / "old.csv", ["=suma,0.9"] * 30 + ["agua,0.8"] * 30, "label,probability")
    new = write_csv(tmp_path / "new.csv", ["'=suma,0.9"] * 30 + ["agua,0.8"] * 30, "label,probability")
    found = json.loads(run(old, new, "--json")[1])
    assert found["appeared"] == []
    assert found["measures"][0]["psi"] == 0


def test_a_label_with_the_separator_in_it_is_not_torn(run: Run, tmp_path: Path) -> None:
    rows = [["agua|luz", "pagos"], ["agua"], ["pagos", "agua|=luz|gas", "agua|luz"], ["luz", "agua"]] * 30
    old = tmp_path / "old.jsonl"
    lines = [json.dumps({"label": names, "probability": [0.9] * len(names)}) for names in rows]
    old.write_text("\n".join(lines) + "\n")
    cells = ["|".join(names).replace("|=", "|'=") for names in rows]
    new = write_csv(tmp_path / "new.csv", [f"{cell},0.9" for cell in cells], "label,confidence")
    code, out, _ = run(old, new, "--json")
    found = json.loads(out)
    assert (code, found["appeared"]) == (0, [])
    assert [one["psi"] for one in found["measures"][:2]] == [0, 0]
    # Of what is not known each part is a label, and those beside it are found.
    new = write_csv(tmp_path / "other.csv", [f"otra|{cell},0.9" for cell in cells], "label,confidence")
    appeared = json.loads(run(old, new, "--json")[1])["appeared"]
    assert [one["label"] for one in appeared] == ["otra"]


# ---------------------------------------------------------------------------------------------- misuse


def test_a_model_without_a_reference(error: Callable[..., str], tmp_path: Path) -> None:
    new = write_csv(tmp_path / "new.csv", texts(1, 5))
    assert "holds no reference to compare with" in error(write_toy(tmp_path / "model.onnx"), new)


def test_a_reference_of_another_model(error: Callable[..., str], model: Path, tmp_path: Path) -> None:
    foreign = build_reference(Sample([("x",)]), ["x"], "multiclass").to_json()
    path = write_toy(tmp_path / "model.onnx", reference=foreign)
    new = write_csv(tmp_path / "new.csv", texts(1, 5))
    assert "metadata reference: of another model" in error(path, new)
    path = write_toy(tmp_path / "model.onnx", reference={"format": 1})
    assert "metadata reference: incomplete or garbled" in error(path, new)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("message", ["agua"], "no column 'text'; columns: 'message'; name one with --column"),
        (
            "label,probability",
            ["agua,nan"],
            "line 2: probability: expected a number from 0 to 1, found 'nan'",
        ),
        ("label,probability", ["agua,0.5", "luz,1.5"], "line 3: probability: expected a number from 0 to 1"),
        ("label,confidence", ["agua,"], "line 2: confidence: expected a number from 0 to 1, found nothing"),
        ("label,confidence", ["agua,alta"], "found 'alta'"),
        ("label,probability", [",0.5"], "line 2: label: expected one label, found 0"),
        ("label,probability", ["other,0.5"], "none of its labels, such as 'other', is one of"),
        ("text", [], "no rows that can be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    error: Callable[..., str], model: Path, tmp_path: Path, header: str, rows: list[str], message: str
) -> None:
    path = write_csv(tmp_path / "new.csv", rows, header)
    found = error(model, path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_files_that_are_none(error: Callable[..., str], model: Path, tmp_path: Path) -> None:
    good = write_csv(tmp_path / "good.csv", texts(1, 5))
    (tmp_path / "empty.csv").touch()
    (tmp_path / "a.docx").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "no.parquet").write_text("x")
    assert "no such file" in error(model, tmp_path / "missing.csv")
    assert "no such file" in error(tmp_path / "missing.onnx", good)
    assert "the file is empty" in error(model, tmp_path / "empty.csv")
    assert "unknown kind of file" in error(model, tmp_path / "a.docx")
    assert "a folder without data files" in error(model, tmp_path / "folder")
    (tmp_path / "folder" / "a.csv").write_text("text\n")
    assert "no rows that can be read" in error(model, tmp_path / "folder")
    (tmp_path / "folder" / "b.jsonl").write_text("{}\n")
    assert "a folder with csv and jsonl files" in error(model, tmp_path / "folder")
    assert "not a Parquet file" in error(model, tmp_path / "no.parquet")
    assert "holds no predictions" in error(good, good)
    assert "NEW is a file of texts" in error(good, model)
    assert "--model goes with a data file" in error(model, good, "--model", model)


def test_predictions_of_another_model_are_no_reference(
    error: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    foreign = write_csv(tmp_path / "old.csv", ["x,0.5"], "label,probability")
    good = write_csv(tmp_path / "good.csv", texts(1, 5))
    assert "label 'x' is none of the model's" in error(foreign, good, "--model", model)


def test_a_column_or_prefix_that_no_file_has_is_an_error(
    error: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    texts_file = tmp_path / "texts.csv"
    texts_file.write_text("text\n" + "agua\n" * 40, encoding="utf-8")
    predicted = tmp_path / "predicted.csv"
    predicted.write_text("text,label,probability\n" + "agua,agua,0.7\n" * 40, encoding="utf-8")
    assert "predicted.csv: no column 'nope'" in error(model, predicted, "--column", "nope")
    wrong = error(model, texts_file, "--prefix", "typo_")
    assert "texts.csv: no predictions in columns typo_label and typo_probability; correct --prefix" in wrong


@pytest.mark.parametrize("option", ["--watch", "--drifted", "--alpha"])
def test_options_out_of_range(error: Callable[..., str], model: Path, tmp_path: Path, option: str) -> None:
    new = write_csv(tmp_path / "new.csv", texts(1, 5))
    assert error(model, new, option, "nan").startswith(f"drift: {option}: expected")


def test_nothing_that_trains_is_needed(model: Path, tmp_path: Path) -> None:
    """Only what the extra `drift` adds to the runtime."""
    new = write_csv(tmp_path / "new.csv", texts(1, 300))
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'pandas', 'sklearn', 'scipy', 'onnx', 'dvc', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from afina import cli\n"
        f"cli.main(['drift', {str(model)!r}, {str(new)!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok: ")


@pytest.mark.parametrize("option", [[], ["--json"]])
@pytest.mark.parametrize("shares", [(0.5, 0.3, 0.2), (0.1, 0.1, 0.8)])
def test_a_reader_that_went_away_does_not_change_the_verdict(
    option: list[str], shares: tuple[float, ...], model: Path, tmp_path: Path
) -> None:
    new = write_csv(tmp_path / "new.csv", texts(1, 600, shares))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "afina", "drift", str(model), str(new), *option]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (int(shares[2] == 0.8), "")
