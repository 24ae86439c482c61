"""Stage analyze: data/clean/ -> reports/data/, with lengths in the tokens of the backbone that train uses."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from afina import files, table
from afina.analysis import analyze, count_tokens, evenly_spaced, token_warnings
from afina.labels import read_label_set
from afina.modeling.backbone import load_tokenizer, resolve_backbone
from afina.params.analyze import AnalyzeParams
from afina.params.base import load_section
from afina.params.train import TrainParams
from afina.progress import Progress
from afina.stage import stage, warn

CLEAN = Path("data/clean")
REPORTS = Path("reports/data")


@stage("analyze")
def main() -> str:
    params, train = load_section(AnalyzeParams), load_section(TrainParams)
    messages = table.read(CLEAN / "messages.parquet")
    label_set = read_label_set(CLEAN / "labels.json")
    tokenizer_json, _ = load_tokenizer(resolve_backbone(train.backbone, train.revision).folder)
    sample = messages["text"].take(pa.array(evenly_spaced(messages.num_rows, params.max_rows)))
    with Progress("analyze", len(sample), "texts") as progress:
        tokens = count_tokens(sample, tokenizer_json, progress)
    result = analyze(
        messages, label_set, files.read_json(REPORTS / "cleaning.json"), tokens, train.max_length
    )
    files.write_json(REPORTS / "summary.json", result.summary)
    files.write_csv(
        REPORTS / "classes.csv", ("label", "examples", "share", "cumulative_share"), result.classes
    )
    files.write_csv(REPORTS / "lengths.csv", ("words", "rows"), result.lengths)
    files.write_csv(REPORTS / "cooccurrence.csv", ("label_a", "label_b", "rows"), result.cooccurrence)
    found = result.summary["tokens"]
    warn("analyze", token_warnings(found))
    return (
        f"{messages.num_rows:,} rows, {len(label_set.labels)} labels, {found['pieces_per_word'] or 0:.2f} "
        f"tokens a word, {found['unknown_rate'] or 0:.1%} of them unknown; half of the texts have up to "
        f"{found['p50']}, {found['truncated_share'] or 0:.1%} are cut off at {train.max_length}"
    )


if __name__ == "__main__":
    main()
