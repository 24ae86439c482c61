"""The recipes: valid parameters, and the one without a public file tried on a small file of its columns."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from afina.cleaning import clean
from afina.params.adapt import AdaptParams
from afina.params.analyze import AnalyzeParams
from afina.params.balance import BalanceParams
from afina.params.base import TOP_LEVEL, load_section, load_seed
from afina.params.baseline import BaselineParams
from afina.params.clean import CleanParams
from afina.params.evaluate import EvaluateParams
from afina.params.export import ExportParams
from afina.params.extract import ExtractParams
from afina.params.split import SplitParams
from afina.params.train import TrainParams
from afina.sources import read_sources

RECIPES = sorted((Path(__file__).resolve().parents[2] / "pipeline" / "recipes").glob("*.yaml"))
SECTIONS = (
    ExtractParams,
    CleanParams,
    AnalyzeParams,
    SplitParams,
    BalanceParams,
    AdaptParams,
    BaselineParams,
    TrainParams,
    EvaluateParams,
    ExportParams,
)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_a_complete_params_file(recipe: Path) -> None:
    assert set(yaml.safe_load(recipe.read_text(encoding="utf-8"))) == set(TOP_LEVEL)
    assert load_seed(recipe) == 42
    for section in SECTIONS:
        load_section(section, recipe)


def test_reviews_become_two_classes(tmp_path: Path) -> None:
    recipe = next(path for path in RECIPES if path.stem == "reviews_es")
    target = tmp_path / "data" / "source" / "reviews.csv"
    target.parent.mkdir(parents=True)
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review_id", "product_id", "review_title", "review_body", "stars"])
        for number in range(25):
            stars = number % 5 + 1
            body = f"El producto número {number} llegó después de {number} días, señor"
            writer.writerow([f"es_{number}", f"product_{number // 2}", f"Título {number}", body, stars])
    table = read_sources(load_section(ExtractParams, recipe), tmp_path).table
    params = load_section(CleanParams, recipe)
    assert isinstance(params.label_map, dict)
    cleaned = clean(table, params, params.label_map)
    assert cleaned.labels["counts"] == {"negative": 10, "positive": 10}
    assert cleaned.rejected.num_rows == 5
    assert cleaned.table["group"].null_count == 0
    assert all("Título" in text and "número" in text for text in cleaned.table["text"].to_pylist())
