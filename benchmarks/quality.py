"""What each means against a badly fitting vocabulary brings, beside a linear model, on five real data sets.

    python benchmarks/quality.py --data FOLDER [SET ...] [--variants NAME ...] [--seeds 3] [--jobs 2]

Every run is the stages of the pipeline, with the default backbone, on one split of its set; seeds are those
of training. Runs are kept in a JSON file as they finish, and one that is there, made with the same
parameters, is not made again: stop it at any time. The table has macro-F1 on the test rows, the mean over
the seeds and the 95 % interval of that mean (Student's t). "plain" is afina's engine, with its learning rates
and the set's class weights, without the means; "Trainer" is what a tutorial does, see plain_trainer.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from intervals import mean_and_half_width
from recipes import FILES as RECIPE_FILES
from recipes import RECIPES, ROOT

SIB200 = {
    "seed": 42,
    "extract": {
        "sources": [
            {"path": f"data/source/{name}.tsv", "text": "text", "label": "category", "split_as": split}
            for name, split in (("train", "train"), ("dev", "validation"), ("test", "test"))
        ]
    },
    "clean": {"task": "multiclass"},
    "split": {"method": "given"},
}
FILES = {name: RECIPE_FILES[name] for name in ("emotions", "medical", "topics_es", "subtitles_es")} | {
    "sib200": {f"sib200_es/{name}.tsv": f"data/source/{name}.tsv" for name in ("train", "dev", "test")},
    "subtitles_random": RECIPE_FILES["subtitles_es"],
}
# A set again, its rows shared out as notebooks do it: a fifth for test, at random, so that lines that are
# almost the same are in train and in test.
AGAIN = {"subtitles_random": "subtitles_es"}
AT_RANDOM = {"method": "stratified", "validation": 0.1, "test": 0.2, "near_duplicates": None}
# set -> what its training wants beside the defaults: epochs by validation, and the length of its texts
TRAIN: dict[str, dict[str, Any]] = {
    "emotions": {"epochs": 3, "max_length": 64},
    "medical": {"epochs": 4, "max_length": 128},
    "topics_es": {"epochs": 3, "max_length": 160},
    "subtitles_es": {"epochs": 5, "max_length": 48},
    "sib200": {"epochs": 8, "max_length": 128},
}
TRAIN |= {name: TRAIN[of] for name, of in AGAIN.items()}
TRAINER = "Trainer"  # the same backbone, rows, lengths and epochs without afina
# variant -> what it changes in the defaults; only the last two leave the vocabulary's choice to afina
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"train.lexical": False, "adapt.vocabulary": "none"},
    "lexical": {"adapt.vocabulary": "none"},
    "tokens": {"train.lexical": False, "adapt.vocabulary": "extend", "adapt.glossary": None},
    "pretraining": {"train.lexical": False, "adapt.vocabulary": "none", "adapt.epochs": 5},
    "glossary": {"train.lexical": False},
    "together": {},
}
# The defaults but for one thing: for its choice, by validation. Run where they are named.
TRIALS: dict[str, dict[str, Any]] = {
    "1e-4": {"train.learning_rate": 1e-4},
    "5e-4": {"train.learning_rate": 5e-4},
    "5e-4 no dropout": {"train.learning_rate": 5e-4, "train.backbone_dropout": 0.0},
    "head 5e-4": {"train.head_learning_rate": 5e-4},
    "head 3e-3": {"train.head_learning_rate": 3e-3},
    "new tokens 5e-4": {"train.new_token_learning_rate": 5e-4},
    "new tokens 3e-3": {"train.new_token_learning_rate": 3e-3},
    "cls": {"train.pooling": "cls"},
    "max": {"train.pooling": "max"},
    "ema": {"train.ema": 0.99},
    "r_drop": {"train.r_drop": 1.0},
    "longer": {},  # twice the tokens of a text, see `changes_of`
}
ALL_VARIANTS = VARIANTS | TRIALS
COLUMNS = (TRAINER, *VARIANTS)
# Sets in the backbone's own language, where new tokens have nothing to mend and afina adds none.
ENGLISH = ("emotions", "medical")
NOT_FOR_ENGLISH = ("tokens", "glossary", "new tokens 5e-4", "new tokens 3e-3")

PREPARE = ("extract", "clean", "analyze", "split", "balance", "baseline")
STAGES = ("adapt", "train", "evaluate")
LIMIT = 20.0  # minutes of adapting and training that a run may take


def main() -> None:
    """Parse the command line, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sets", nargs="*", default=list(FILES), metavar="SET")
    parser.add_argument("--variants", nargs="+", default=list(COLUMNS), choices=[TRAINER, *ALL_VARIANTS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, the processors shared out")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("AFINA_REAL_DATA", "../shared/data")),
        help="folder with the real data sets",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "quality.json")
    arguments = parser.parse_args()
    for name in arguments.sets:
        if name not in FILES:
            parser.error(f"no data is known for {name!r}; choose from {', '.join(FILES)}")
    runs: list[dict[str, Any]] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        threads = max((os.cpu_count() or 1) // arguments.jobs, 1)
        futures = []
        for name in arguments.sets:
            missing = [file for file in FILES[name] if not (arguments.data / file).is_file()]
            if missing:
                print(f"{name}: skipped, {arguments.data / missing[0]} is absent", file=sys.stderr)
                continue
            plans = [plan for plan in plans_of(name, arguments) if not done(runs, plan)]
            if plans:
                prepared = prepare(name, arguments.data, Path(folder) / name)
                futures += [pool.submit(run, plan, prepared, threads) for plan in plans]
        for future in as_completed(futures):
            found = future.result()
            runs = [old for old in runs if identity(old) != identity(found)] + [found]
            runs.sort(key=lambda row: (list(FILES).index(row["set"]), *identity(row)))
            arguments.out.write_text(json.dumps(runs, indent=2) + "\n")
            print(f"{' '.join(map(str, identity(found)))}: {found['macro_f1']:.3f}", file=sys.stderr)
    print(table(runs))
    if any(row["variant"] in TRIALS for row in runs):
        print(f"\nBy validation macro-F1:\n\n{trials_table(runs)}\n")
    print(closing(runs))


def identity(row: dict[str, Any]) -> tuple[str, str, int]:
    """What there is one run of."""
    return row["set"], row["variant"], row["seed"]


def plans_of(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs of a set, seed by seed, so that an interrupted benchmark has whole seeds."""
    return [
        {
            "set": name,
            "variant": variant,
            "seed": seed,
            "params": params_of(name, changes_of(name, variant), seed),
        }
        for seed in range(42, 42 + arguments.seeds)
        for variant in arguments.variants
        if not (name in ENGLISH and variant in NOT_FOR_ENGLISH)
    ]


def changes_of(name: str, variant: str) -> dict[str, Any]:
    """What a variant changes in the defaults of a set."""
    if variant == "longer":
        return {"train.max_length": 2 * TRAIN[name]["max_length"]}
    return {} if variant == TRAINER else ALL_VARIANTS[variant]


def params_of(name: str, changes: dict[str, Any], seed: int) -> dict[str, Any]:
    """A set's parameters: data as its recipe says, training as by default but for what `TRAIN` says."""
    recipe = RECIPES / f"{AGAIN.get(name, name)}.yaml"
    params = SIB200 if name == "sib200" else yaml.safe_load(recipe.read_text())
    params = params | {"seed": seed, "train": dict(TRAIN[name]), "adapt": {}}
    if name in AGAIN:
        params |= {"split": AT_RANDOM}
    for key, value in changes.items():
        section, parameter = key.split(".")
        params[section][parameter] = value
    return params


def done(runs: list[dict[str, Any]], plan: dict[str, Any]) -> bool:
    """Whether a run was made, and with the parameters of this plan."""
    return any(identity(row) == identity(plan) and row["params"] == plan["params"] for row in runs)


def prepare(name: str, data: Path, folder: Path) -> Path:
    """The stages before training, once for all runs of a set."""
    for file, target in FILES[name].items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / file, folder / target)
    write_params(folder, params_of(name, {}, 42))
    for stage in PREPARE:
        run_stage(stage, folder, None)
    return folder


def run(plan: dict[str, Any], prepared: Path, threads: int) -> dict[str, Any]:
    """Train and score in a copy of the prepared folder."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        shutil.copytree(prepared, folder)
        write_params(folder, plan["params"])
        found = (
            run_trainer(plan, folder, threads) if plan["variant"] == TRAINER else run_afina(folder, threads)
        )
        baseline = json.loads((folder / "reports" / "baseline.json").read_text())
    test = found.pop("test")
    second = "accuracy" if "accuracy" in test else "micro_f1"
    return plan | {
        "macro_f1": test["macro_f1"],
        second: test[second],
        "linear_macro_f1": baseline["tfidf"]["macro_f1"],
        f"linear_{second}": baseline["tfidf"][second],
        **found,
        "threads": threads,
        "revision": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip(),
    }


def run_afina(folder: Path, threads: int) -> dict[str, Any]:
    """The stages from adapt on; scores on test, and what else is noted of a run."""
    seconds = {stage: run_stage(stage, folder, threads)[0] for stage in STAGES}
    metrics = json.loads((folder / "reports" / "metrics.json").read_text())
    adapted = json.loads((folder / "models" / "adapted" / "adapted.json").read_text())
    history = (folder / "reports" / "training.csv").read_text().splitlines()[1:]
    return {
        "test": metrics["test"],
        "validation_macro_f1": metrics["validation"]["macro_f1"],
        "validation_by_epoch": [float(line.split(",")[4]) for line in history],
        "test_rows": metrics["rows"]["test"],
        "new_tokens": adapted["new_tokens"],
        "minutes": round((seconds["adapt"] + seconds["train"]) / 60, 1),
    }


def run_trainer(plan: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """plain_trainer.py; scores on test, and what else is noted of a run."""
    train = plan["params"]["train"]
    options = {"epochs": train["epochs"], "max-length": train["max_length"], "seed": plan["seed"]}
    script = [str(ROOT / "benchmarks" / "plain_trainer.py"), "."]
    script += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    seconds, printed = run_script(script, folder, threads)
    scores = json.loads(printed.splitlines()[-1])
    return {
        "test": scores["test"],
        "validation_macro_f1": scores["validation"]["macro_f1"],
        "validation_by_epoch": scores["validation_by_epoch"],
        "test_rows": scores["test_rows"],
        "new_tokens": 0,
        "minutes": round(seconds / 60, 1),
    }


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """params.yaml of a folder."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True))


def run_stage(stage: str, folder: Path, threads: int | None) -> tuple[float, str]:
    """Run a stage's script in a folder; gives the seconds it took and what it printed."""
    return run_script([str(ROOT / "pipeline" / f"{stage}.py")], folder, threads)


def run_script(script: list[str], folder: Path, threads: int | None) -> tuple[float, str]:
    """Run a script, with its arguments, in a folder; gives the seconds it took and what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, *script], cwd=folder, env=environment, capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(f"{folder.name}: {Path(script[0]).stem} failed: {result.stderr[-2000:]}")
    return time.perf_counter() - started, result.stdout


def column(runs: list[dict[str, Any]], name: str, variant: str, score: str = "macro_f1") -> list[float]:
    """A score of a set's runs of a variant: test macro-F1, or another one by its name."""
    return [row[score] for row in runs if (row["set"], row["variant"]) == (name, variant)]


def shown(values: list[float]) -> str:
    """A cell: mean and interval, or the one value."""
    if not values:
        return "–"
    middle, half = mean_and_half_width(values)
    return f"{middle:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")


def table(runs: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    header = f"| set | test rows | linear | {' | '.join(COLUMNS)} | minutes, together |"
    lines = [header, "|" + "---|" * (header.count("|") - 1)]
    for name in FILES:
        rows = [row for row in runs if row["set"] == name]
        if rows:
            cells = [shown(column(runs, name, variant)) for variant in COLUMNS]
            lines.append(
                f"| {name} | {rows[0]['test_rows']:,} | {rows[0]['linear_macro_f1']:.3f} "
                f"| {' | '.join(cells)} | {max(column(runs, name, 'together', 'minutes'), default='–')} |"
            )
    return "\n".join(lines)


def trials_table(runs: list[dict[str, Any]]) -> str:
    """Validation macro-F1 of the trials beside the defaults as a Markdown table, one trial a row.

    Both of a pair are means over the seeds that the trial has.
    """
    lines = ["| set | the defaults but for | seeds | the defaults | the trial |", "|---|---|---|---|---|"]
    for name in FILES:
        scores = {
            variant: {
                row["seed"]: row["validation_macro_f1"]
                for row in runs
                if (row["set"], row["variant"]) == (name, variant)
            }
            for variant in ("together", *TRIALS)
        }
        for variant in TRIALS:
            seeds = scores[variant].keys() & scores["together"].keys()
            if seeds:
                pair = [mean(scores[one][seed] for seed in seeds) for one in ("together", variant)]
                lines.append(f"| {name} | {variant} | {len(seeds)} | {pair[0]:.3f} | {pair[1]:.3f} |")
    return "\n".join(lines)


def closing(runs: list[dict[str, Any]]) -> str:
    """The last line: on how many sets the defaults are above the linear model and the two plain ways."""
    names = [name for name in FILES if column(runs, name, "together")]
    linear = {row["set"]: row["linear_macro_f1"] for row in runs}
    above_linear = sum(mean(column(runs, name, "together")) > linear[name] for name in names)
    minutes = max((row["minutes"] for row in runs if row["variant"] == "together"), default=0.0)
    return (
        f"quality: sets={len(names)} above_linear={above_linear} "
        f"above_trainer={above(runs, names, TRAINER)} above_plain={above(runs, names, 'plain')} "
        f"minutes_max={minutes} (limit {LIMIT:.0f})"
    )


def above(runs: list[dict[str, Any]], names: list[str], variant: str) -> str:
    """On how many of the sets that have a variant the defaults are above it: ``2/3``."""
    compared = [name for name in names if column(runs, name, variant)]
    won = sum(mean(column(runs, name, "together")) > mean(column(runs, name, variant)) for name in compared)
    return f"{won}/{len(compared)}"


if __name__ == "__main__":
    main()
