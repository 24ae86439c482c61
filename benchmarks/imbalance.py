"""What is done about imbalance, compared: {strategies} x {losses} x seeds on several data sets through DVC.

    python benchmarks/imbalance.py [--data FOLDER] [--sets demo emotions ...] [--seeds 3] [--jobs 2] [--more]

Data. FOLDER holds the data sets as benchmarks/recipes.py names them; an absent one is reported and skipped.
Of each set and seed about --rows rows are drawn, stratified and near duplicates together: 15 % validation,
30 % test, the rest training. A training part whose most frequent class has less than 50 times the rows of the
rarest one is thinned to 50:1, with an exponential profile over the classes by size (Cui et al.,
"Class-balanced loss based on effective number of samples", CVPR 2019; Cao et al., "Learning imbalanced
datasets with label-distribution-aware margin loss", NeurIPS 2019). Multilabel rows are taken in random order
as long as none of their labels has its share, so rare labels meet others in training less often than in test.
Validation and test keep the classes as they come.

Runs. Every set and seed is a clone of the committed tree with the sample as its source. `dvc repro evaluate`
makes the plain model (cross-entropy, strategy none) and all that the variants share; `dvc exp run --queue`
and `dvc queue start` do the rest. All variants of a seed have the same rows. Epochs are equal, not updates:
what oversamples trains longer, what undersamples shorter. A loss other than cross_entropy and logit_adjusted
runs with strategy none alone, unless --full is given; resampled to equal shares, logit_adjusted is
cross_entropy and left out. `late` stands for train.reweight_after 0.8, `post hoc`
for evaluate.logit_adjustment 1.0 on the plain model. Multilabel decides by thresholds fitted on validation.
--more adds samplers, augmentation and other ways to train, `MORE` below, each beside cross-entropy.
The vocabulary is adapted as by default; without --lexical the backbone is alone, as the losses act on it.

Figures. macro-F1, and the mean F1 of the rare classes: the third with the fewest training rows. Intervals are
of the paired bootstrap: test rows of each seed are drawn again, within the classes (multilabel: within each
row's rarest label), the same for a variant and the plain model, and the seeds averaged. They say what the
test rows leave open, and the seeds only as far as their mean goes.

Finished runs are kept in --out, and a rerun with the same settings does the others alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from recipes import FILES, RECIPES, ROOT

DATA = Path(os.environ.get("AFINA_REAL_DATA", ROOT.parent / "shared" / "data"))
DEMO = "demo"  # in every clone; its sections are those of params.yaml
SETS = (DEMO, "emotions", "topics_es", "medical")
STRATEGIES = ("none", "class_weights", "oversample", "undersample")
RESAMPLING = ("oversample", "undersample")
LOSSES = {
    "multiclass": ("cross_entropy", "focal", "class_balanced", "logit_adjusted", "ldam"),
    "multilabel": (
        "cross_entropy",
        "focal",
        "class_balanced",
        "logit_adjusted",
        "asymmetric",
        "distribution_balanced",
    ),
}
ALL_LOSSES = tuple(dict.fromkeys(loss for losses in LOSSES.values() for loss in losses))
CROSSED = ("cross_entropy", "logit_adjusted")  # losses that run with every strategy
REWEIGHT_AFTER = 0.8
# A hundred updates in two epochs: high rates, and no dropout, so that the models are past the beginning.
RATES = {"learning_rate": 5e-4, "head_learning_rate": 2e-3, "backbone_dropout": 0.0}
# Sections of params.yaml that results depend on: with the same ones and the same sample, a run is kept.
DECISIVE = ("seed", "clean", "split", "balance", "adapt", "train", "evaluate")
TAU = 1.0
RATIO = 50.0
VALIDATION, TEST = 0.15, 0.30
RESAMPLES = 2_000
SAMPLE = "data/source/sample.jsonl"
PREDICTIONS = "reports/predictions.parquet"
POLL_SECONDS = 10.0
STATUS_ATTEMPTS = 5
STALLED_POLLS = 6  # without a worker while tasks wait

Ints = npt.NDArray[np.int64]
Hot = npt.NDArray[np.int8]  # multi-hot (n, L)
Floats = npt.NDArray[np.floating[Any]]

ALTERATIONS = "[delete, swap, typo, accent]"
# By strategy, what else there is; frozen and decayed layers are those of the backbone.
MORE = {
    "none": {
        "square_root_sampler": {"train.sampler": "square_root"},
        "class_balanced_sampler": {"train.sampler": "class_balanced"},
        "progressive_sampler": {"train.sampler": "progressive"},
        "augmented_to_100": {"balance.augment": ALTERATIONS, "balance.augment_target": "100"},
        "label_smoothing": {"train.label_smoothing": "0.1"},
        "r_drop": {"train.r_drop": "1.0", "train.backbone_dropout": "0.1"},
        "ema": {"train.ema": "0.95"},
        "layer_decay": {"train.layer_decay": "0.9"},
        "freeze_embeddings": {"train.freeze": "embeddings"},
        "freeze_3_layers": {"train.freeze": "3"},
        "freeze_all": {"train.freeze": "all"},
        "lora": {"train.lora_rank": "16"},
    },
    "oversample": {"augmented": {"balance.augment": ALTERATIONS}},
}


@dataclass(frozen=True)
class Variant:
    """A strategy, a loss and what goes with them."""

    name: str  # of the experiment
    changes: dict[str, str]  # parameter -> value, beside the plain model's


PLAIN = Variant("none-cross_entropy", {"balance.strategy": "none", "train.loss": "cross_entropy"})


def make_variant(
    strategy: str, loss: str, suffix: str = "", more: Mapping[str, str] | None = None
) -> Variant:
    """A variant named after what it does."""
    changes = {"balance.strategy": strategy, "train.loss": loss, **(more or {})}
    return Variant("-".join(part for part in (strategy, loss, suffix) if part), changes)


def variants(
    task: str, strategies: Sequence[str], losses: Sequence[str], full: bool, more: bool = False
) -> list[Variant]:
    """The grid of a task, the plain model first.

    Args:
        losses: those that the task does not have are left out.
        full: every strategy with every loss.
        more: with `MORE`, where cross-entropy is among the losses.
    """
    chosen = [loss for loss in LOSSES[task] if loss in losses]
    grid = [
        make_variant(strategy, loss)
        for strategy in strategies
        for loss in chosen
        if full or loss in CROSSED or strategy == "none"
        # Equal shares leave the logit-adjusted loss nothing to adjust: it is cross-entropy then.
        if not (task == "multiclass" and strategy in RESAMPLING and loss == "logit_adjusted")
    ]
    if "class_weights" in strategies and "ldam" in chosen:
        late = {"train.reweight_after": str(REWEIGHT_AFTER)}
        grid.append(make_variant("class_weights", "ldam", "late", late))
    if "none" in strategies and "cross_entropy" in chosen:
        adjusted = {"evaluate.logit_adjustment": str(TAU)}
        grid.append(make_variant("none", "cross_entropy", "post_hoc", adjusted))
    if more and "cross_entropy" in chosen:
        grid += [
            make_variant(strategy, "cross_entropy", suffix, changes)
            for strategy in strategies
            for suffix, changes in MORE.get(strategy, {}).items()
        ]
    return [PLAIN, *(variant for variant in grid if variant != PLAIN)]


# Samples


@dataclass(frozen=True)
class Sample:
    """What a clone reads: rows that name their split."""

    rows: list[dict[str, Any]]
    task: str
    labels: list[str]
    natural: float  # imbalance ratio of the training part before thinning


def imbalance_ratio(counts: Sequence[int] | Ints) -> float:
    """Rows of the most frequent class over those of the rarest one that has any."""
    present = [int(count) for count in counts if count]
    return max(present) / min(present) if present else 1.0


def long_tailed(available: Sequence[int] | Ints, budget: float, ratio: float) -> Ints:
    """Rows to keep of each class for an exponential profile from the most frequent to the rarest one.

    Args:
        available: rows of each class (L,); a class without rows is left out of the profile.
        budget: rows to keep in all, about.
        ratio: most frequent class over the rarest one.
    """
    counts = np.asarray(available, dtype=np.int64)
    order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    shares = ratio ** (-np.arange(len(order)) / max(len(order) - 1, 1))
    largest = min(float(counts[order[0]]), budget / float(shares.sum())) if order else 0.0
    targets = np.zeros(len(counts), dtype=np.int64)
    for index, share in zip(order, shares, strict=True):
        targets[index] = min(int(counts[index]), max(1, round(largest * float(share))))
    return targets


def proportional(available: Sequence[int] | Ints, budget: float) -> Ints:
    """Rows to keep of each class so that their shares stay, at least one of each that has any."""
    counts = np.asarray(available, dtype=np.int64)
    scaled = np.rint(counts * min(1.0, budget / max(int(counts.sum()), 1))).astype(np.int64)
    return np.asarray(np.minimum(counts, np.maximum(1, scaled)), dtype=np.int64)


def thin(hot: Hot, targets: Ints, generator: np.random.Generator) -> Ints:
    """Rows (m,), sorted, taken in random order as long as none of their labels has its target already.

    Args:
        hot: multi-hot (n, L); a row without labels is always taken.
        targets: (L,).
    """
    left = targets.astype(np.int64).copy()
    kept = []
    for row in generator.permutation(len(hot)):
        own = np.flatnonzero(hot[row])
        if (left[own] > 0).all():
            left[own] -= 1
            kept.append(int(row))
    return np.array(sorted(kept), dtype=np.int64)


def draw_sample(pool: Any, label_set: Any, rows: int, ratio: float, seed: int) -> Sample:
    """About ``rows`` rows of the clean table ``pool``, divided; training thinned to ``ratio``."""
    from afina.evaluation.metrics import one_hot
    from afina.labels import encode_labels
    from afina.params.split import SplitParams
    from afina.splitting import split_messages

    total = min(rows, pool.num_rows)
    scale = total / pool.num_rows
    settings = {"method": "stratified", "validation": VALIDATION * scale, "test": TEST * scale}
    parsed = SplitParams.parse(settings | {"small_classes": "train"})
    tables = dict(split_messages(pool, label_set, parsed, seed).tables)

    labels = list(label_set.labels)
    encoded = encode_labels(tables["train"]["labels"], labels, label_set.task)
    hot = np.asarray(one_hot(encoded, len(labels)), dtype=np.int8)
    counts = hot.sum(axis=0, dtype=np.int64)
    natural = imbalance_ratio(counts)
    budget = (1 - VALIDATION - TEST) * total * float(counts.sum()) / len(hot)
    targets = long_tailed(counts, budget, ratio) if natural < ratio else proportional(counts, budget)
    tables["train"] = tables["train"].take(thin(hot, targets, np.random.default_rng(seed)))
    drawn = [
        {"id": row["id"], "text": row["text"], "labels": row["labels"], "split": split}
        for split, part in tables.items()
        for row in part.select(["id", "text", "labels"]).to_pylist()
    ]
    return Sample(drawn, label_set.task, labels, natural)


def load_pool(name: str, data: Path) -> tuple[Any, Any]:
    """The clean table of a data set, and its labels, by the sections `extract` and `clean` of its recipe."""
    from afina.cleaning import clean, read_label_map
    from afina.labels import LabelSet
    from afina.params.clean import CleanParams
    from afina.params.extract import ExtractParams
    from afina.sources import read_sources

    path = ROOT / "params.yaml" if name == DEMO else RECIPES / f"{name}.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        root = ROOT if name == DEMO else Path(folder)
        for source, target in FILES.get(name, {}).items():
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / source, root / target)
        extraction = read_sources(ExtractParams.parse(recipe["extract"]), root)
    params = CleanParams.parse(recipe["clean"])
    mapping = read_label_map(ROOT / params.label_map) if isinstance(params.label_map, str) else None
    cleaned = clean(extraction.table, params, mapping)
    return cleaned.table, LabelSet(cleaned.labels["task"], tuple(cleaned.labels["labels"]))


# Runs


def run_params(task: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """params.yaml of a clone: the project's, with the sample as source and the plain model's settings."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    source = {"path": SAMPLE, "text": "text", "label": "labels", "id": "id", "split": "split"}
    params["seed"] = seed
    params["extract"] = {"sources": [source]}
    # Cleaned, without duplicates and divided already.
    params["clean"] = {"task": task, "steps": []}
    params["split"] = {"method": "given", "near_duplicates": None, "small_classes": "train"}
    params["balance"] = params["balance"] | {"strategy": "none", "augment": [], "augment_target": None}
    params["adapt"] = params["adapt"] | {"epochs": 0, "vocabulary": "auto"}
    # A parameter that an experiment sets has to be there.
    params["train"] = {
        **params["train"],
        **RATES,
        "epochs": arguments.epochs,
        "max_length": arguments.max_length,
        "lexical": arguments.lexical,
        "threads": 1,
        "loss": "cross_entropy",
        "reweight_after": 0.0,
        "sampler": "shuffle",
        "label_smoothing": 0.0,
        "r_drop": 0.0,
        "ema": None,
        "layer_decay": 1.0,
        "freeze": "none",
        "lora_rank": 0,
    }
    params["evaluate"] = params["evaluate"] | {
        "thresholds": "fit",
        "logit_adjustment": "none",
        "untrained": False,
    }
    return params


class Clone:
    """A clone of the committed tree with a sample in place, where experiments are queued."""

    def __init__(self, folder: Path, params: str, sample: str) -> None:
        self.folder = folder / "afina"
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "PYTHONPATH": str(self.folder / "src"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.folder)], check=True)
        self.git("config", "user.name", "benchmark")
        self.git("config", "user.email", "benchmark@localhost")
        self.dvc("config", "cache.type", "symlink,copy")
        (self.folder / SAMPLE).write_text(sample, encoding="utf-8")
        (self.folder / "params.yaml").write_text(params, encoding="utf-8")

    def call(self, *command: str) -> str:
        """What a command prints.

        Raises:
            RuntimeError: it failed; the message is its last line.
        """
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:3])}: {last_error(done.stderr or done.stdout)}")
        return done.stdout

    def git(self, *arguments: str) -> str:
        """Run git."""
        return self.call("git", *arguments)

    def dvc(self, *arguments: str) -> str:
        """Run dvc with this interpreter."""
        return self.call(sys.executable, "-m", "dvc", *arguments)

    def commit(self, message: str) -> None:
        """Commit everything, sources too."""
        self.git("add", "--all")
        self.git("add", "--force", SAMPLE)
        self.git("commit", "--quiet", "--no-verify", "-m", message)

    def read(self, path: str, revision: str | None = None) -> bytes:
        """A file of the workspace or of an experiment."""
        import dvc.api  # type: ignore[import-untyped]

        if revision is None:
            return (self.folder / path).read_bytes()
        content: bytes = dvc.api.read(path, repo=str(self.folder), rev=revision, mode="rb")
        return content

    def queue(self, variant: Variant, seed: int) -> None:
        """Queue a variant up to the stage evaluate."""
        changes = [f"{name}={value}" for name, value in ({"seed": str(seed)} | variant.changes).items()]
        options = [option for change in changes for option in ("--set-param", change)]
        self.dvc("exp", "run", "--queue", "--name", variant.name, *options, "evaluate")

    def status(self) -> tuple[dict[str, str], int]:
        """State of each experiment in the queue, and how many workers there are."""
        for _ in range(STATUS_ATTEMPTS - 1):
            try:
                return parse_status(self.dvc("queue", "status"))
            except RuntimeError:  # it may read a message that a worker is just writing
                time.sleep(1)
        return parse_status(self.dvc("queue", "status"))

    def start(self, jobs: int) -> None:
        """Start the queue's workers. They keep its output open, so nothing may wait for the end of that.

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "queue", "start", "--jobs", str(jobs)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise RuntimeError("dvc queue start: failed")

    def finished(self, names: Sequence[str], jobs: int) -> Iterator[tuple[str, bool]]:
        """Run what is queued; each experiment's name as it ends, and whether it succeeded."""
        self.start(jobs)
        waiting, stalled = set(names), 0
        while waiting:
            time.sleep(POLL_SECONDS)
            states, workers = self.status()
            ended = [name for name in names if name in waiting and states.get(name) in ("Success", "Failed")]
            for name in ended:
                waiting.discard(name)
                yield name, states[name] == "Success"
            stalled = 0 if workers or ended else stalled + 1
            if stalled == STALLED_POLLS // 2:
                self.start(jobs)
            if stalled >= STALLED_POLLS:
                for name in sorted(waiting):
                    yield name, False
                return

    def stop(self) -> None:
        """End the workers, and what they run where the queue was left early."""
        self.dvc("queue", "stop", "--kill")
        for _ in range(20):
            if not self.status()[1]:
                return
            time.sleep(1)


@contextmanager
def cloned(params: str, sample: str) -> Iterator[Clone]:
    """A clone that is gone afterwards, its workers too."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        clone = Clone(Path(folder), params, sample)
        try:
            yield clone
        finally:
            clone.stop()


def parse_status(text: str) -> tuple[dict[str, str], int]:
    """Name -> state, and the number of workers, of what `dvc queue status` prints."""
    states, workers = {}, 0
    for line in text.splitlines():
        words = line.split()
        if line.startswith("Worker status:"):
            workers = int(words[2]) + int(words[4])
        elif len(words) >= 4 and words[-1] in ("Queued", "Running", "Success", "Failed"):
            states[words[1]] = words[-1]
    return states, workers


def last_error(text: str) -> str:
    """The line that says what went wrong: the last one with "error", else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # DVC ends with the command that failed; the line before is what that command said.
    named = [line for line in lines if "error" in line.lower() and "failed to reproduce" not in line]
    return (named or lines or ["no message"])[-1]


def run_group(
    clone: Clone, name: str, seed: int, pending: Sequence[Variant], jobs: int
) -> Iterator[tuple[Variant, bytes | None]]:
    """predictions.parquet of each variant as it is done; None where it failed.

    The plain model comes first, always: its stages are what the others start from.
    """
    label = f"{name}, seed {seed}"
    clone.commit("sample")
    clone.dvc("repro", "evaluate")
    clone.commit("plain model")
    yield PLAIN, clone.read(PREDICTIONS)
    rest = {variant.name: variant for variant in pending if variant != PLAIN}
    for variant in rest.values():
        clone.queue(variant, seed)
    if not rest:
        return
    for done, succeeded in clone.finished(list(rest), jobs):
        if succeeded:
            yield rest[done], clone.read(PREDICTIONS, done)
            continue
        try:
            said = last_error(clone.dvc("queue", "logs", done))
        except RuntimeError as error:
            said = str(error)
        say(f"{label}, {done}: failed: {said}")
        yield rest[done], None


# Results


class Results:
    """What is in the JSON file: samples and runs, each with the settings it was made with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.samples: list[dict[str, Any]] = kept.get("samples", [])
        self.runs: list[dict[str, Any]] = kept.get("runs", [])
        self.hours: float = kept.get("hours", 0.0)

    def sample(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The sample of a set, a seed and settings."""
        return next((sample for sample in self.samples if holds(sample, key)), None)

    def of(self, key: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The finished runs of a sample by variant."""
        return {run["variant"]: run for run in self.runs if holds(run, key)}

    def add(self, run: dict[str, Any], sample: dict[str, Any], hours: float) -> None:
        """Keep a run and its sample, at once on disk."""
        same = ("set", "seed", "settings")
        if self.sample({name: sample[name] for name in same}) is None:
            self.samples.append(sample)
        own = {name: run[name] for name in (*same, "variant")}
        self.runs = [old for old in self.runs if not holds(old, own)] + [run]
        self.hours += hours
        self.write()

    def write(self) -> None:
        """Write the file."""
        content = {"hours": round(self.hours, 4), "samples": self.samples, "runs": self.runs}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(self.path)


def holds(row: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    """Does a row have the values of a key?"""
    return all(row.get(name) == value for name, value in key.items())


def pack(hot: Hot) -> str:
    """Multi-hot rows (n, L) as text: the indexes of each row's labels joined by ``+``, rows by ``,``."""
    return ",".join("+".join(str(index) for index in np.flatnonzero(row)) for row in hot)


def unpack(text: str, label_count: int) -> Hot:
    """The inverse of `pack`."""
    rows = text.split(",")
    hot = np.zeros((len(rows), label_count), dtype=np.int8)
    for row, cell in enumerate(rows):
        for index in cell.split("+") if cell else ():
            hot[row, int(index)] = 1
    return hot


def digest_of(texts: Sequence[str]) -> str:
    """16 hexadecimal digits of what texts are."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def read_test(content: bytes, labels: Sequence[str]) -> tuple[list[str], Hot, Hot]:
    """Ids, truth and predictions (n, L) of the test rows of predictions.parquet."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from afina.labels import encode_labels

    table = pq.read_table(io.BytesIO(content))
    table = table.filter(pc.equal(table["split"], "test"))
    truth, guess = (encode_labels(table[name], labels, "multilabel") for name in ("labels", "predicted"))
    return table["id"].to_pylist(), truth, guess


def describe(clone: Clone, sample: Sample, key: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as the results keep it, from what the clone made of it."""
    from afina import table
    from afina.evaluation.metrics import one_hot
    from afina.labels import encode_labels, read_label_set

    label_set = read_label_set(clone.folder / "data" / "clean" / "labels.json")
    splits = {
        split: table.read(clone.folder / "data" / "splits" / f"{split}.parquet", ["labels"])
        for split in ("train", "validation", "test")
    }
    train = one_hot(
        encode_labels(splits["train"]["labels"], label_set.labels, label_set.task), len(label_set.labels)
    )
    counts = train.sum(axis=0, dtype=np.int64)
    ids, truth, _ = read_test(clone.read(PREDICTIONS), label_set.labels)
    metrics = json.loads(clone.read("reports/metrics.json"))
    return {
        **key,
        "task": label_set.task,
        "labels": list(label_set.labels),
        "train_counts": counts.tolist(),
        "rows": {split: part.num_rows for split, part in splits.items()},
        "imbalance_natural": round(sample.natural, 1),
        "imbalance": round(imbalance_ratio(counts), 1),
        "tfidf_macro_f1": metrics["baseline"]["tfidf_macro_f1"],
        "test_ids": digest_of(ids),
        "truth": pack(truth),
    }


# Statistics


def rare_classes(train_counts: Sequence[int]) -> list[int]:
    """Indexes of the third of the classes, rounded up, with the fewest training rows; ties by index."""
    order = sorted(range(len(train_counts)), key=lambda index: (train_counts[index], index))
    return sorted(order[: math.ceil(len(train_counts) / 3)])


def draw_weights(truth: Hot, resamples: int, seed: int) -> Floats:
    """How often each row is in each resample, (resamples, n) float32, drawn within strata.

    A stratum is the rows of one rarest true label (multiclass: of one class), so no resample loses a class.
    """
    generator = np.random.default_rng(seed)
    rarity = np.where(truth == 1, truth.sum(axis=0), np.iinfo(np.int64).max)
    strata = np.where(truth.any(axis=1), rarity.argmin(axis=1), truth.shape[1])
    weights = np.zeros((resamples, len(truth)), dtype=np.float32)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        weights[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
    return weights


def f1_scores(truth: Hot, guess: Hot, weights: Floats, rare: Sequence[int]) -> Floats:
    """Macro-F1 and the mean F1 of the rare classes in each resample, (2, resamples).

    F1 is 2 hits / (true + predicted), 0 where a class is neither true nor predicted.

    Args:
        truth: multi-hot (n, L).
        guess: multi-hot (n, L).
        weights: (resamples, n).
        rare: indexes of classes.
    """
    hits = weights @ (truth & guess).astype(np.float32)
    whole = weights @ (truth + guess).astype(np.float32)
    f1 = np.divide(2.0 * hits, whole, out=np.zeros(hits.shape), where=whole > 0)
    return np.stack([f1.mean(axis=1), f1[:, list(rare)].mean(axis=1)])


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Does the interval exclude 0?"""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """A variant beside the plain model on one data set; means over the seeds."""

    variant: str
    seeds: int
    macro_f1: Estimate
    rare_f1: Estimate
    macro_difference: Estimate
    rare_difference: Estimate


Guesses = Mapping[str, Mapping[int, Hot]]  # variant -> seed -> predictions (n, L)


def compare(
    truths: Mapping[int, Hot], rare: Mapping[int, Sequence[int]], guesses: Guesses, resamples: int = RESAMPLES
) -> list[Comparison]:
    """Every variant beside the plain model, over the seeds that both have, in the order of ``guesses``.

    Args:
        truths: seed -> multi-hot (n, L) of the test rows.
        rare: seed -> indexes of the rare classes.
        guesses: with the plain model's.
    """
    plain = guesses[PLAIN.name]
    weights = {seed: draw_weights(truths[seed], resamples, seed) for seed in plain}

    def scores(guess: Hot, seed: int) -> Floats:
        """(2, 1 + resamples), the first of the rows as they are."""
        once = np.ones((1, len(guess)), dtype=np.float32)
        drawn = np.concatenate([once, weights[seed]])
        return f1_scores(truths[seed], guess, drawn, rare[seed])

    reference = {seed: scores(guess, seed) for seed, guess in plain.items()}
    rows = []
    for name, by_seed in guesses.items():
        seeds = [seed for seed in by_seed if seed in reference]
        if not seeds:
            continue
        own = np.mean([scores(by_seed[seed], seed) for seed in seeds], axis=0)
        base = np.mean([reference[seed] for seed in seeds], axis=0)
        macro, rares = (estimate(line) for line in own)
        macro_difference, rare_difference = (estimate(line) for line in own - base)
        rows.append(Comparison(name, len(seeds), macro, rares, macro_difference, rare_difference))
    return rows


def estimate(line: Floats) -> Estimate:
    """The first value, and the percentile interval of the others."""
    low, high = np.quantile(line[1:], (0.025, 0.975))
    return Estimate(float(line[0]), float(low), float(high))


def mean_differences(compared: Mapping[str, Sequence[Comparison]]) -> dict[str, tuple[float, float]]:
    """Mean over the sets of the differences in macro-F1 and rare-class F1, of variants that all sets have."""
    found: dict[str, list[tuple[float, float]]] = {}
    for rows in compared.values():
        for row in rows:
            if row.variant != PLAIN.name:
                pair = (row.macro_difference.value, row.rare_difference.value)
                found.setdefault(row.variant, []).append(pair)
    means = {
        name: (sum(one for one, _ in pairs) / len(pairs), sum(other for _, other in pairs) / len(pairs))
        for name, pairs in found.items()
        if len(pairs) == len(compared)
    }
    return dict(sorted(means.items(), key=lambda item: -item[1][0]))


# The report


def set_table(rows: Sequence[Comparison]) -> str:
    """The comparisons of one data set as a Markdown table; * marks a difference whose interval excludes 0."""
    lines = [
        "| variant | seeds | macro-F1 [95 %] | difference [95 %] | rare-class F1 [95 %] "
        "| difference [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        plain = row.variant == PLAIN.name
        differences = [
            "" if plain else signed(figure) for figure in (row.macro_difference, row.rare_difference)
        ]
        lines.append(
            f"| {title(row.variant)} | {row.seeds} | {plus_interval(row.macro_f1)} | {differences[0]} "
            f"| {plus_interval(row.rare_f1)} | {differences[1]} |"
        )
    return "\n".join(lines)


def plus_interval(figure: Estimate) -> str:
    """A score and its interval."""
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def signed(figure: Estimate) -> str:
    """A difference and its interval."""
    mark = "*" if figure.differs else ""
    return f"{figure.value:+.3f}{mark} [{figure.low:+.3f}, {figure.high:+.3f}]"


def title(name: str) -> str:
    """A variant's name as it is read: strategy + loss."""
    strategy, loss, *more = name.split("-")
    suffix = f" ({more[0].replace('_', ' ')})" if more else ""
    return f"{strategy.replace('_', ' ')} + {loss.replace('_', ' ')}{suffix}"


def set_heading(name: str, samples: Sequence[Mapping[str, Any]]) -> str:
    """What the samples of a data set are."""
    first = samples[0]
    rows = ", ".join(
        f"{round(sum(sample['rows'][split] for sample in samples) / len(samples)):,} {split}"
        for split in ("train", "validation", "test")
    )
    natural, made = (
        sum(sample[key] for sample in samples) / len(samples) for key in ("imbalance_natural", "imbalance")
    )
    tfidf = sum(sample["tfidf_macro_f1"] for sample in samples) / len(samples)
    how = f"thinned from {natural:.1f}:1" if natural < RATIO else "as it comes"
    return (
        f"### {name}\n\n{first['task']}, {len(first['labels'])} labels; rows: {rows}; imbalance of the "
        f"training part {made:.0f}:1 ({how}); TF-IDF with a linear model: macro-F1 {tfidf:.3f}."
    )


def report(
    compared: Mapping[str, Sequence[Comparison]],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    settings: Mapping[str, Any],
    commits: Sequence[str],
) -> str:
    """The whole Markdown file."""
    about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    parts = [
        "# Treatments of imbalance compared",
        "Made by `python benchmarks/imbalance.py`, which says how. Differences are to plain cross-entropy "
        "with strategy none on the same test rows; * marks those whose 95 % interval excludes 0, each looked "
        f"at alone. Settings: {about}. Code: {', '.join(commits)}.",
    ]
    parts += [f"{set_heading(name, samples[name])}\n\n{set_table(rows)}" for name, rows in compared.items()]
    means = mean_differences(compared)
    if len(compared) > 1 and means:
        lines = ["| variant | macro-F1 | rare-class F1 |", "|---|---|---|"]
        lines += [
            f"| {title(name)} | {macro:+.3f} | {rares:+.3f} |" for name, (macro, rares) in means.items()
        ]
        parts.append("### Mean difference over the sets\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def summary(runs: int, hours: float, compared: Mapping[str, Sequence[Comparison]]) -> str:
    """The last line."""
    means = mean_differences(compared)
    best, gain = next(((name, macro) for name, (macro, _) in means.items()), (PLAIN.name, 0.0))
    return (
        f"imbalance: runs={runs} hours={hours:.2f} best={best} "
        f"(macro_f1 {gain:+.3f} over plain cross-entropy, mean of sets)"
    )


def draw(compared: Mapping[str, Sequence[Comparison]], path: Path) -> None:
    """The differences as a picture: a panel for each data set, a row for each variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {name: [row for row in rows if row.variant != PLAIN.name] for name, rows in compared.items()}
    panels = {name: rows for name, rows in panels.items() if rows}
    if not panels:
        return
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    most = max(len(rows) for rows in panels.values())
    figure, grid = plt.subplots(
        lines, columns, figsize=(6.6 * columns, (0.36 * most + 1.0) * lines + 0.6), squeeze=False,
        sharex=True,
    )  # fmt: skip
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    kinds = (
        ("macro_difference", "macro-F1", "#0072b2", "o", -0.17),
        ("rare_difference", "F1 of the rare classes", "#d55e00", "s", 0.17),
    )
    for axes, (name, rows) in zip(grid.flat, panels.items(), strict=False):
        for kind, label, colour, marker, offset in kinds:
            figures = [getattr(row, kind) for row in rows]
            values = [figure_.value for figure_ in figures]
            # A percentile interval may leave its own estimate out; bars have no negative length.
            ends = [
                [max(0.0, figure_.value - figure_.low) for figure_ in figures],
                [max(0.0, figure_.high - figure_.value) for figure_ in figures],
            ]
            axes.errorbar(
                values, [place + offset for place in range(len(rows))], xerr=ends, label=label,
                fmt=marker, color=colour, markersize=4, elinewidth=1.4, capsize=2,
            )  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [title(row.variant) for row in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", labelsize=8, labelbottom=True)
        for place in range(0, len(rows), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="0.96", zorder=0)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("difference to plain cross-entropy, 95 % interval", fontsize=8)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


# The command


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the real data sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="STRATEGY"
    )
    parser.add_argument("--losses", nargs="+", choices=ALL_LOSSES, default=list(ALL_LOSSES), metavar="LOSS")
    parser.add_argument("--full", action="store_true", help="every strategy with every loss")
    parser.add_argument("--more", action="store_true", help="samplers, augmentation and other ways to train")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 1, 2, ...")
    parser.add_argument("--rows", type=int, default=3000, help="of each sample, about")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--lexical", action="store_true", help="with the lexical model in the sum")
    parser.add_argument("--jobs", type=int, default=2, help="experiments at a time, of one thread each")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "imbalance.json", help="and the table beside it"
    )
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "imbalance.png")
    return parser.parse_args(words)


def main() -> None:
    """Parse the command line, run what is missing, write the table and the picture."""
    arguments = parse()
    settings = {name: getattr(arguments, name) for name in ("rows", "epochs", "max_length", "lexical")}
    results = Results(arguments.out)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    groups: dict[str, list[tuple[dict[str, Any], list[str]]]] = {}  # set -> key of a sample, its variants
    failures = 0
    pools: dict[str, tuple[Any, Any]] = {}
    for name in arguments.sets:
        missing = [path for path in FILES.get(name, {}) if not (arguments.data / path).is_file()]
        if missing:
            say(f"{name}: skipped, {arguments.data / missing[0]} is absent")
            continue
        pools[name] = load_pool(name, arguments.data)
    # Seed by seed, so that what is stopped early has all sets.
    for seed, name in itertools.product(range(1, arguments.seeds + 1), pools):
        pool, label_set = pools[name]
        grid = variants(
            label_set.task, arguments.strategies, arguments.losses, arguments.full, arguments.more
        )
        sample = draw_sample(pool, label_set, arguments.rows, RATIO, seed)
        settled = run_params(sample.task, arguments, seed)
        params = yaml.safe_dump(settled, sort_keys=False, allow_unicode=True)
        matters = json.dumps({name: settled[name] for name in DECISIVE}, sort_keys=True, ensure_ascii=False)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in sample.rows)
        key = {"set": name, "seed": seed, "settings": settings | {"digest": digest_of([matters, text])}}
        groups.setdefault(name, []).append((key, [variant.name for variant in grid]))
        failures += run_missing(results, sample, (params, text), key, grid, arguments.jobs, commit)
    compared, samples, runs = collect(results, groups)
    commits = sorted({run["commit"] for run in runs})
    text = report(compared, samples, settings, commits)
    arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(compared, arguments.picture)
    print(text)
    print(summary(len(runs), results.hours, compared))
    if failures:
        sys.exit(1)


def run_missing(
    results: Results,
    sample: Sample,
    texts: tuple[str, str],
    key: dict[str, Any],
    grid: Sequence[Variant],
    jobs: int,
    commit: str,
) -> int:
    """Run the variants of a sample that the results do not have; how many failed.

    Args:
        texts: params.yaml and the source file.
        commit: what is cloned.
    """
    done = results.of(key)
    pending = [variant for variant in grid if variant.name not in done]
    label = f"{key['set']}, seed {key['seed']}"
    if not pending:
        say(f"{label}: all {len(grid)} runs are there")
        return 0
    say(f"{label}: {len(pending)} of {len(grid)} runs to do, {len(sample.rows):,} rows")
    failed, start = 0, time.perf_counter()
    try:
        with cloned(*texts) as clone:
            described: dict[str, Any] = {}
            for variant, content in run_group(clone, key["set"], key["seed"], pending, jobs):
                if content is None:
                    failed += 1
                    continue
                took, start = time.perf_counter() - start, time.perf_counter()
                described = described or results.sample(key) or describe(clone, sample, key)
                ids, truth, guess = read_test(content, described["labels"])
                if pack(truth) != described["truth"] or digest_of(ids) != described["test_ids"]:
                    raise RuntimeError(f"{variant.name} was tested on other rows than the runs before it")
                if variant.name in done:  # the plain model, made again for the others to start from
                    continue
                scores = f1_scores(
                    truth,
                    guess,
                    np.ones((1, len(truth)), np.float32),
                    rare_classes(described["train_counts"]),
                )
                run = {
                    **key,
                    "variant": variant.name,
                    "macro_f1": round(float(scores[0, 0]), 6),
                    "rare_f1": round(float(scores[1, 0]), 6),
                    "commit": commit,
                    "predicted": pack(guess),
                }
                results.add(run, described, took / 3600)
                say(f"{label}, {variant.name}: macro-F1 {run['macro_f1']:.3f}, {took:.0f} s since the last")
    except RuntimeError as error:
        say(f"{label}: failed: {error}")
        return len([variant for variant in grid if variant.name not in results.of(key)])
    return failed


def collect(
    results: Results, groups: Mapping[str, Sequence[tuple[dict[str, Any], Sequence[str]]]]
) -> tuple[dict[str, list[Comparison]], dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """By data set, the comparisons and the samples; and the runs behind them."""
    compared: dict[str, list[Comparison]] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    used: list[dict[str, Any]] = []
    for name, keys in groups.items():
        truths: dict[int, Hot] = {}
        rare: dict[int, list[int]] = {}
        guesses: dict[str, dict[int, Hot]] = {variant: {} for variant in keys[0][1]}
        for key, names in keys:
            sample, runs = results.sample(key), results.of(key)
            if sample is None or PLAIN.name not in runs:
                continue
            seed = key["seed"]
            samples.setdefault(name, []).append(sample)
            truths[seed] = unpack(sample["truth"], len(sample["labels"]))
            rare[seed] = rare_classes(sample["train_counts"])
            for variant in names:
                if variant in runs:
                    guesses[variant][seed] = unpack(runs[variant]["predicted"], len(sample["labels"]))
                    used.append(runs[variant])
        if truths:
            compared[name] = compare(truths, rare, guesses)
    return compared, samples, used


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
