"""Reading the predictions that a revision of the repository holds, in git or in DVC's cache."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from afina.comparison import Predictions
from afina.errors import UserError
from afina.evaluation.predictions import SCHEMA, SCHEMA_VERSION
from afina.labels import TASKS, Task, encode_labels
from afina.params.split import SPLITS

PREDICTIONS = "reports/predictions.parquet"
PREDICTED_BY = "evaluate"  # the stage that makes them
LOCK, PARAMS = "dvc.lock", "params.yaml"
WORKSPACE = "workspace"  # what the files on disk are called


def read_revision(revision: str | None, option: str) -> Predictions:
    """Read the test rows of a revision's predictions.parquet.

    Args:
        revision: a commit, branch, tag or DVC experiment; None: the file in the workspace.
        option: of the command line, which a message names.

    Raises:
        UserError: there is no such revision, it has no such file or its content is not in cache or remote,
            this is no git and DVC repository, or `parse_predictions` refuses the file.
    """
    if revision is None:
        path = find_root() / PREDICTIONS
        try:
            return parse_predictions(path.read_bytes(), PREDICTIONS)
        except FileNotFoundError:
            raise UserError(
                f"compare: {PREDICTIONS}: no such file; make it with `dvc repro`, bring it back with `dvc "
                f"checkout`, or name a commit with {option}"
            ) from None
    return parse_predictions(_read(revision, option), f"{PREDICTIONS} of {option} {revision}")


def list_experiments(all_commits: bool) -> list[tuple[str, str, str]]:
    """Name, revision and baseline of the experiments of the latest commit, or of every commit.

    A name is unique among the experiments of one commit: one that several have is followed by the commit.

    Raises:
        UserError: this is no git and DVC repository, it has no commit, or DVC cannot read it.
    """
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]
    from dvc.scm import RevError, SCMError  # type: ignore[import-untyped]

    root = find_root("leaderboard")
    try:
        with Repo(str(root)) as repo:
            found = repo.experiments.ls(all_commits=all_commits)
    except RevError:
        raise UserError(
            f"leaderboard: {root}: git has no commit yet, so there are no experiments; commit first"
        ) from None
    except SCMError:
        raise UserError(
            f"leaderboard: {root}: not in a git repository, so there are no experiments"
        ) from None
    except DvcException as error:
        raise UserError(f"leaderboard: {root}: DVC cannot read it ({_line(error)})") from None
    times = Counter(name for members in found.values() for name, _ in members)
    return [
        (name if times[name] == 1 else f"{name} ({shown(base)})", revision, base)
        for base, members in found.items()
        for name, revision in members
    ]


def changed_params(base: str, revision: str) -> dict[str, dict[str, Any]]:
    """Parameters that differ between two revisions: name -> what it was (old) and is (new)."""
    from dvc.repo import Repo

    with Repo(str(find_root())) as repo:
        files = repo.params.diff(a_rev=base, b_rev=revision).get("diff", {})
    return {name: values for changes in files.values() for name, values in changes.items()}


def outdated_stages(revision: str | None) -> tuple[str, ...]:
    """Stages behind a revision's predictions that were not run with its parameters, by its dvc.lock.

    `dvc exp run` of some stages alone leaves the others' outputs as they were: the predictions are then those
    of other parameters. Stages come in the order of the lock; none where there is no lock to tell.
    """
    from dvc.utils.serialize import ParseError, parse_yaml  # type: ignore[import-untyped]

    try:
        # As DVC reads them: to it 5e-4 is a number, and to YAML 1.1 it is text.
        lock, params = (parse_yaml(_content(revision, name), name) for name in (LOCK, PARAMS))
        return tuple(_outdated(lock["stages"], params))
    except (UserError, OSError, ParseError, KeyError, TypeError, AttributeError):
        return ()


def read_splits(revision: str | None) -> list[tuple[str, str, str]]:
    """Id, split and text of each message of a revision.

    Args:
        revision: a commit, branch, tag or DVC experiment; None: the files in the workspace.

    Raises:
        UserError: there is no such revision, or it has no splits in the workspace, the cache or the remote.
    """
    found: list[tuple[str, str, str]] = []
    for name in SPLITS:
        path = f"data/splits/{name}.parquet"
        try:
            content = _content(revision, path, "keep-split", "--rev")
            rows = pq.ParquetFile(pa.BufferReader(content)).read(columns=["id", "text"], use_threads=False)
        except FileNotFoundError:
            raise UserError(
                f"keep-split: {path}: no such file; make it with `dvc repro split`, bring it back with `dvc "
                "checkout`, or name a commit with --rev"
            ) from None
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"keep-split: {path}: not what split writes ({_line(error)})") from None
        ids, texts = (rows[column].to_pylist() for column in ("id", "text"))
        found += zip(ids, [name] * len(ids), texts, strict=True)
    return found


def _content(revision: str | None, path: str, command: str = "compare", option: str = "revision") -> bytes:
    return (
        (find_root(command) / path).read_bytes()
        if revision is None
        else _read(revision, option, path, command)
    )


def _outdated(stages: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """Stages whose recorded parameters, or inputs, are others than those recorded of what is before them."""
    made = {
        out["path"]: (name, out.get("md5")) for name, one in stages.items() for out in one.get("outs", ())
    }
    needs = {
        name: {made[dep["path"]][0]: dep for dep in one.get("deps", ()) if dep["path"] in made}
        for name, one in stages.items()
    }
    stale: dict[str, bool] = {}

    def is_stale(name: str) -> bool:
        if name not in stale:
            before = [is_stale(other) for other in needs[name]]  # all, to name them
            recorded = stages[name].get("params", {}).get(PARAMS, {})
            stale[name] = (
                any(_value(params, key) != value for key, value in recorded.items())
                or any(dep.get("md5") != made[dep["path"]][1] for dep in needs[name].values())
                or any(before)
            )
        return stale[name]

    is_stale(PREDICTED_BY)
    return [name for name in stages if stale.get(name)]


def _value(params: Mapping[str, Any], key: str) -> Any:
    """A parameter by its dotted name; None where there is none."""
    found: Any = params
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def shown(revision: str | None) -> str:
    """A revision's name for people: a full hash is cut."""
    if revision is None:
        return WORKSPACE
    return revision[:8] if re.fullmatch(r"[0-9a-f]{40}", revision) else revision


def parse_predictions(content: bytes, name: str) -> Predictions:
    """The test rows of the bytes of a predictions.parquet.

    Args:
        content: of the file.
        name: what messages call it.

    Raises:
        UserError: it is not Parquet, has another schema version, lacks a column, holds a value that is none,
            or has no test rows.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"compare: {name}: {what}")

    again = "run `dvc repro -f evaluate` there"
    try:
        # Not pq.read_table: its threads may hold the bytes when Python ends, and abort it then.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise refuse(f"not a Parquet file ({_line(error)}); {again}") from None
    metadata = table.schema.metadata or {}
    version = metadata.get(b"schema_version", b"none").decode(errors="replace")
    if version != SCHEMA_VERSION:
        raise refuse(f"schema version {version}, expected {SCHEMA_VERSION}; {again}")
    task = metadata.get(b"task", b"").decode(errors="replace")
    labels = _labels(metadata.get(b"labels", b""))
    if task not in TASKS or not labels:
        raise refuse(f"its metadata name no task or no labels; {again}")
    missing = [column for column in SCHEMA.names if column not in table.column_names]
    if missing:
        raise refuse(f"no column {missing[0]!r}; {again}")
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise refuse(f"a column is of another type or has empty cells ({_line(error)}); {again}") from None
    table = table.filter(pc.equal(table["split"], "test")).combine_chunks()
    if not table.num_rows:
        raise refuse("no test rows; give the test split more (section split of params.yaml)")
    _check_probabilities(table["probabilities"], refuse)
    ids, count = Counter(table["id"].to_pylist()).most_common(1)[0]
    if count > 1:
        raise refuse(
            f"{count} test rows have the id {ids!r}; rows are paired by id, so each may be there once"
        )
    try:
        truth, predicted = (
            encode_labels(table[column], labels, cast(Task, task)) for column in ("labels", "predicted")
        )
    except UserError:
        raise refuse(f"a row's labels are not those that its metadata name; {again}") from None
    return Predictions(cast(Task, task), labels, tuple(table["id"].to_pylist()), truth, predicted)


def _labels(written: bytes) -> tuple[str, ...]:
    """The labels of the metadata; none where they are not a list of different names."""
    try:
        labels = json.loads(written)
    except ValueError:
        return ()
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return ()
    return tuple(labels) if len(set(labels)) == len(labels) else ()


def _check_probabilities(column: pa.ChunkedArray, refuse: Any) -> None:
    values = np.asarray(pc.list_flatten(column).fill_null(np.nan), dtype=np.float32)
    rows = np.asarray(pc.list_parent_indices(column.combine_chunks()))
    bad = len(np.unique(rows[~np.isfinite(values)]))
    if bad:
        raise refuse(
            f"{bad} of {len(column)} test rows have a probability that is not a number; the model has "
            "diverged, lower train.learning_rate"
        )


# ------------------------------------------------------------------------------------------------ DVC


def find_root(command: str = "compare") -> Path:
    """The folder of the DVC repository around the current one; ``command`` is named where there is none."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        return Path(Repo.find_root())
    except NotDvcRepoError:
        raise UserError(
            f"{command}: {Path.cwd()}: not in a DVC repository; run it in the one whose models are compared"
        ) from None


def _read(revision: str, option: str, file: str = PREDICTIONS, command: str = "compare") -> bytes:
    """The bytes of a revision's predictions, or another file, from git, DVC's cache or its remote."""
    import dvc.api  # type: ignore[import-untyped]
    from dvc.exceptions import (
        DvcException,
        FileMissingError,
        OutputNotFoundError,
        PathMissingError,
    )
    from dvc.scm import SCM, RevError, SCMError

    root = find_root(command)
    if not revision:
        raise UserError(f"{command}: {option}: the revision has no name; give a commit, branch or tag")
    try:
        top = Path(SCM(str(root)).root_dir)
    except SCMError:
        raise UserError(
            f"{command}: {root}: not in a git repository, so there is no revision to read"
        ) from None
    path = (root.resolve().relative_to(top.resolve()) / file).as_posix()
    try:
        return cast(bytes, dvc.api.read(path, repo=str(root), rev=revision, mode="rb"))
    except RevError:
        raise UserError(
            f"{command}: {option}: no revision {revision!r} in git; in a shallow clone, fetch it first"
        ) from None
    except (FileMissingError, OutputNotFoundError, PathMissingError):
        raise UserError(
            f"{command}: {option} {revision}: no {file} at that revision, or one that is in no cache "
            "and on no remote; run `dvc repro` and commit there, or `dvc fetch --all-commits` here"
        ) from None
    except (DvcException, OSError) as error:
        raise UserError(
            f"{command}: {option} {revision}: {file}: DVC cannot read it ({_line(error)})"
        ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
