"""Messages are added, and the known ones keep their split."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq
from workspace import Project, write_messages

KEPT = "data/source/kept_split.csv"
SOURCE = Path("data") / "source" / "mensajes.csv"


def splits_of(project: Project) -> dict[str, str]:
    return {
        id_: name
        for name in ("train", "validation", "test")
        for id_ in pq.read_table(project.root / "data" / "splits" / f"{name}.parquet")["id"].to_pylist()
    }


def texts_of(project: Project) -> dict[str, str]:
    return {
        text: name
        for name in ("train", "validation", "test")
        for text in pq.read_table(project.root / "data" / "splits" / f"{name}.parquet")["text"].to_pylist()
    }


def add_messages(project: Project) -> int:
    """Append altered copies of every fourth message, with ids of their own; returns how many."""
    path = project.root / SOURCE
    _, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    new = [[f"n{id_}", f"{' '.join(reversed(text.split()))} hoy", topic] for id_, text, topic in rows[::4]]
    with path.open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(new)
    return len(new)


def test_the_known_messages_stay_and_two_commits_can_be_compared(project: Project) -> None:
    before = splits_of(project)
    added = add_messages(project)
    project.dvc("repro", "split")
    reshuffled = splits_of(project)
    assert {id_: reshuffled[id_] for id_ in before} != before

    # Written from the commit: what is on disk has the new messages already.
    said = project.run("afina", "keep-split", "--rev", "HEAD").out
    assert said == (
        f"{KEPT}: the splits of {len(before)} messages; in params.yaml: split: {{keep: {KEPT}}}\n"
    )
    project.set(split__keep=KEPT)
    result = project.dvc("repro")
    assert "split" in result.ran
    after = splits_of(project)
    assert len(after) == len(before) + added
    assert {id_: after[id_] for id_ in before} == before
    assert {after[id_] for id_ in after.keys() - before.keys()} == {"train", "validation", "test"}

    compared = project.run("afina", "compare", "--base", "HEAD", check=False).out
    tested = sum(name == "test" for name in before.values())
    assert f" on {tested} common test rows" in compared
    assert "only in base" not in compared

    # The file is an input of the stage: other splits there, and the messages are there.
    lines = (project.root / KEPT).read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines) if ",train," in line)
    moved = lines[number].partition(",")[0]
    lines[number] = lines[number].replace(",train,", ",test,")
    (project.root / KEPT).write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert "split" in project.dvc("repro", "split").ran
    after = splits_of(project)
    assert {id_: after[id_] for id_ in before} == before | {moved: "test"}


def test_a_later_message_that_is_the_same_leaves_the_known_one_where_it_is(project: Project) -> None:
    """It has the first id, and so stands for both."""
    before = texts_of(project)
    project.run("afina", "keep-split")
    path = project.root / SOURCE
    _, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    with path.open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([f"!{id_}", *rest] for id_, *rest in rows)
    project.set(split__keep=KEPT)
    (project.root / "deeper").mkdir()
    project.dvc("repro", "split")
    assert texts_of(project) == before
    assert all(":!" in id_ for id_ in splits_of(project))

    # Wherever it is run, the file is the one that the stages read.
    (project.root / KEPT).unlink()
    inside = Project(project.root / "deeper")
    assert KEPT in project.run("sh", "-c", "cd deeper && afina keep-split").out
    assert (project.root / KEPT).is_file()
    assert not list(inside.root.iterdir())


def test_what_cannot_be_kept_is_said_in_one_line(project: Project) -> None:
    def error(*arguments: str) -> str:
        result = project.run("afina", "keep-split", *arguments, check=False)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
        return result.err

    assert "keep-split: --rev: no revision 'nothing' in git" in error("--rev", "nothing")
    for out in ("data/source", "params.yaml/kept.csv"):
        assert f"keep-split: --out: cannot write {project.root / out} (" in error("--out", out)
    (project.root / "data" / "splits" / "validation.parquet").unlink()
    assert "keep-split: data/splits/validation.parquet: no such file; make it with `dvc repro" in error()
    assert not (project.root / KEPT).exists()

    project.set(split__keep=KEPT)
    write_messages(project.root / SOURCE)
    for stage in ("extract", "split"):
        failed = project.dvc("repro", "--force", "--single-item", stage, check=False)
        assert failed.code != 0
        assert f"{KEPT}: no such file" in failed.err + failed.out
