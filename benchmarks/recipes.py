"""Run the recipes on real data in fresh clones and print the README's table.

    python benchmarks/recipes.py --data FOLDER [RECIPE ...]

FOLDER holds the data sets as FILES names them; a recipe whose files are absent is reported as such. Each
run is a clone of the committed tree, with the recipe as its params.yaml, and `dvc repro`. A backbone that is
neither installed nor downloadable is replaced by the default one, with the learning rate of params.yaml,
which is for it, and what SMALL names; the table says which backbone ran.
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
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "pipeline" / "recipes"

# recipe -> {file under --data: where the recipe looks for it}; the demo's files are in every clone
FILES: dict[str, dict[str, str]] = {
    "sinco": {},
    "medical": {"techsphere_medical/challenge_data-18-ago.csv": "data/source/medical.csv"},
    "emotions": {
        "emotions_en/train.txt": "data/source/emotions_train.txt",
        "emotions_en/test.txt": "data/source/emotions_test.txt",
    },
    "topics_es": {"sdg_es/Train_textosODS.xlsx": "data/source/topics.xlsx"},
    "subtitles_es": {"xed_es/es-projections.tsv": "data/source/subtitles.tsv"},
}
VARIANTS = {
    "sinco": [{"balance.strategy": name} for name in ("none", "oversample", "undersample", "class_weights")]
}
PLAIN = {"train.lexical": False, "adapt.vocabulary": "none"}
# recipe -> what else a backbone a fifth of the named size wants: beside a deep head of random weights it
# learns next to nothing at the learning rate that suits a single linear layer.
SMALL: dict[str, dict[str, Any]] = {
    "sinco": {
        "learning_rate": 3.0e-4,
        "head_learning_rate": 2.0e-3,
        "backbone_dropout": 0.0,
        "batch_size": 32,
        "epochs": 4,
    }
}
HEADER = (
    "| recipe | rows | classes | backbone | macro-F1 [95 %] | micro-F1 | TF-IDF macro-F1 | TF-IDF micro-F1 "
    "| minutes |"
)


def main() -> None:
    """Parse the command line, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("recipes", nargs="*", default=list(FILES), metavar="RECIPE")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with the real data sets"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "recipes.json")
    parser.add_argument(
        "--plain", action="store_true", help="without the lexical model and without new tokens"
    )
    arguments = parser.parse_args()
    for recipe in arguments.recipes:
        if recipe not in FILES:
            parser.error(f"no data is known for {recipe!r}; choose from {', '.join(FILES)}")
    rows = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    for recipe in arguments.recipes:
        missing = [name for name in FILES[recipe] if not (arguments.data / name).is_file()]
        if missing:
            print(f"{recipe}: skipped, {arguments.data / missing[0]} is absent", file=sys.stderr)
            continue
        for variant in VARIANTS.get(recipe, [{}]):
            row = run(recipe, variant, arguments.plain, arguments.data)
            rows = [old for old in rows if identity(old) != identity(row)]
            rows.append(row)
            arguments.out.write_text(json.dumps(rows, indent=2) + "\n")
    print(table([row for row in rows if row["plain"] == arguments.plain]))


def identity(row: dict[str, Any]) -> tuple[str, str, bool]:
    """What there is one run of."""
    return row["recipe"], row["variant"], row["plain"]


def run(recipe: str, variant: dict[str, Any], plain: bool, data: Path) -> dict[str, Any]:
    """Clone the repository, put the recipe and its data in place, run the pipeline, read the metrics."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "afina"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for name, target in FILES[recipe].items():
            shutil.copyfile(data / name, clone / target)
        params, backbone = prepare(recipe, variant | (PLAIN if plain else {}))
        (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True))
        environment = {
            **os.environ,
            "PYTHONPATH": str(clone / "src"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        start = time.perf_counter()
        subprocess.run(["dvc", "repro"], cwd=clone, env=environment, check=True)
        minutes = (time.perf_counter() - start) / 60
        return {
            "recipe": recipe,
            "variant": " ".join(f"{key.split('.')[-1]}={value}" for key, value in variant.items()),
            "plain": plain,
            "backbone": backbone,
            "minutes": round(minutes, 1),
            **measured(clone),
        }


def prepare(recipe: str, variant: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The recipe's parameters with the variant's changes, and the backbone that can be had here."""
    from afina.errors import UserError
    from afina.modeling.backbone import resolve_backbone
    from afina.params.train import TrainParams

    params = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    for key, value in variant.items():
        section, name = key.split(".")
        params.setdefault(section, {})[name] = value
    try:
        resolve_backbone(params["train"]["backbone"])
    except UserError as error:
        print(f"{recipe}: {error}\n{recipe}: running with the default backbone instead", file=sys.stderr)
        default = TrainParams()
        for name in ("backbone", "revision", "learning_rate"):
            params["train"][name] = getattr(default, name)
        params["train"].update(SMALL.get(recipe, {}))
    return params, params["train"]["backbone"].rpartition("/")[2]


def measured(clone: Path) -> dict[str, Any]:
    """The figures of a finished run."""
    metrics = json.loads((clone / "reports" / "metrics.json").read_text())
    labels = json.loads((clone / "data" / "clean" / "labels.json").read_text())
    cleaning = json.loads((clone / "reports" / "data" / "cleaning.json").read_text())
    return {"rows": cleaning["rows_out"], "classes": len(labels["labels"]), "metrics": metrics}


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    for row in rows:
        metrics = row["metrics"]
        test, interval, baseline = metrics["test"], metrics["interval"], metrics["baseline"]
        # With one label a message micro-F1 is the accuracy, and metrics.json says it once.
        second = "micro_f1" if "micro_f1" in test else "accuracy"
        name = f"{row['recipe']} {row['variant']}".strip()
        lines.append(
            f"| {name} | {row['rows']:,} | {row['classes']} | {row['backbone']} "
            f"| {test['macro_f1']:.3f} [{interval['macro_f1_low']:.3f}, {interval['macro_f1_high']:.3f}] "
            f"| {test[second]:.3f} | {baseline['tfidf_macro_f1']:.3f} | {baseline[f'tfidf_{second}']:.3f} "
            f"| {row['minutes']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
