"""The model card: Markdown with the metadata block that model hubs read, and no text that people wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from afina.evaluation.intervals import headline_metrics
from afina.reporting.background import facts, limit_sentences, python_example
from afina.reporting.inputs import Inputs, integer, number
from afina.reporting.results import headline
from afina.reporting.setting import Setting, scores_of_classes

# Licences by the names that Hugging Face knows them by.
LICENCES = frozenset(
    {
        "agpl-3.0",
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc-by-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "gpl-3.0",
        "lgpl-3.0",
        "mit",
        "mpl-2.0",
    }
)
METRIC_TYPES = {"accuracy": "accuracy", "macro_f1": "f1", "micro_f1": "f1", "weighted_f1": "f1"}

_PLAIN = """import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession("model.onnx")
about = session.get_modelmeta().custom_metadata_map
labels = json.loads(about["labels"])
tokenizer = Tokenizer.from_str(about["tokenizer"])
tokenizer.enable_truncation(int(about["max_length"]))
ids = np.array([tokenizer.encode("{sample}").ids])
inputs = {{"input_ids": ids, "attention_mask": np.ones_like(ids)}}
[probabilities] = session.run(["probabilities"], inputs)
print({{label: float(p) for label, p in zip(labels, probabilities[0])}})"""


def render_card(inputs: Inputs, setting: Setting, text_language: str) -> str:
    """The card as Markdown; equal arguments give equal text.

    Args:
        text_language: of the messages, as in ISO 639.
    """
    locale, task = setting.locale, inputs.label_set.task
    count = locale.count("class", len(inputs.label_set.labels))
    backbone = inputs.model.get("backbone") or locale.text("backbone_unknown")
    intro = locale.text(
        "card_intro", backbone=escape(backbone), classes=count, task=locale.text(f"task.{task}")
    )
    known = [f"- **{escape(name)}**: {escape(value)}" for name, value in facts(inputs, setting)]
    digest = inputs.model.get("train_data_sha256")
    if digest:
        known.append(f"- **{locale.text('card_data_hash')}**: `{digest}`")
    limits = [f"- {escape(sentence)}" for sentence in limit_sentences(inputs, setting)]
    sample = locale.text("use_sample")
    parts = [
        _front_matter(inputs, setting, text_language),
        f"# {escape(setting.name)}",
        f"{intro} {escape(headline(inputs, setting))}",
        f"## {locale.text('card_use')}",
        locale.text("card_use_text"),
        f"## {locale.text('card_metrics')}",
        _metrics(inputs, setting),
        f"## {locale.text('card_labels')}",
        *([locale.text("card_thresholds")] if task == "multilabel" else []),
        _labels(inputs, setting),
        f"## {locale.text('card_data')}",
        "\n".join(known),
        f"## {locale.text('card_limits')}",
        "\n".join(limits),
        *_copies(inputs.export, setting),
        f"## {locale.text('card_run')}",
        locale.text("card_run_afina"),
        f"```python\n{python_example('model.onnx', inputs, locale)}\n```",
        locale.text("card_graph" if inputs.calibrated else "card_graph_raw"),
        locale.text("card_run_plain"),
        f"```python\n{_PLAIN.format(sample=sample)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text in which Markdown and HTML find nothing to obey, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _front_matter(inputs: Inputs, setting: Setting, text_language: str) -> str:
    model = inputs.model
    known: dict[str, Any] = {"language": [text_language], **_licence(model.get("backbone_licence"))}
    if _is_hub_name(model.get("backbone"), model.get("backbone_revision")):
        known["base_model"] = model["backbone"]
    known |= {
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "onnx", "onnxruntime", inputs.label_set.task],
        "metrics": ["f1", "accuracy"] if inputs.label_set.task == "multiclass" else ["f1"],
        "model-index": [
            {
                "name": setting.name,
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {
                            "name": setting.locale.text("term_test"),
                            "type": "private",
                            "split": "test",
                        },
                        "metrics": _metric_entries(inputs, setting),
                    }
                ],
            }
        ],
    }
    return f"---\n{yaml.safe_dump(known, allow_unicode=True, sort_keys=False, width=1000)}---"


def _licence(name: str | None) -> dict[str, str]:
    if not name:
        return {"license": "unknown"}
    short = name.lower()
    return {"license": short} if short in LICENCES else {"license": "other", "license_name": name}


def _is_hub_name(name: str | None, revision: str | None) -> bool:
    """Whether a backbone is a name on the hub rather than a folder, of which the last part alone is named."""
    known = name and ("/" in name or revision)  # names without an owner are few, and have a revision
    return bool(known and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name or ""))


def _metric_entries(inputs: Inputs, setting: Setting) -> list[dict[str, Any]]:
    return [
        {"type": METRIC_TYPES[name], "name": setting.locale.known("measure", name), "value": value}
        for name, value in inputs.metrics["test"].items()
        if name in METRIC_TYPES
    ]


def _metrics(inputs: Inputs, setting: Setting) -> str:
    locale, metrics = setting.locale, inputs.metrics
    messages = locale.count("message", int((metrics.get("rows") or {}).get("test", 0)))
    intro = locale.text("card_metrics_intro", messages=messages, level=locale.given(setting.level))
    interval = metrics.get("interval") or {}
    rows = [(locale.text("measure"), locale.text("value"), locale.text("interval")), ("---", "---:", "---:")]
    for name, value in metrics["test"].items():
        within = locale.interval(interval.get(f"{name}_low"), interval.get(f"{name}_high"))
        rows.append((locale.known("measure", name), locale.decimal(value), within))
    second = headline_metrics(inputs.label_set.task)[1]
    baseline = metrics.get("baseline") or {}
    for name in ("macro_f1", second):
        if baseline.get(f"tfidf_{name}") is not None:
            measure = f"{locale.known('measure', name)}, {locale.text('model.tfidf')}"
            rows.append((measure, locale.decimal(baseline[f"tfidf_{name}"]), locale.interval(None, None)))
    return f"{intro}\n\n{_table(rows)}"


def _labels(inputs: Inputs, setting: Setting) -> str:
    locale = setting.locale
    scores = {row["label"]: row for row in scores_of_classes(inputs)}
    names = ("label", "sizes_card", "support", "f1", "interval")
    rows = [tuple(locale.text(name) for name in names), ("---", *["---:"] * 4)]
    for label in inputs.label_set.labels:
        row = scores.get(label, {})
        size = inputs.label_set.counts.get(label)
        rows.append(
            (
                escape(label),
                locale.decimal(None) if size is None else locale.integer(size),
                locale.integer(integer(row, "support")) if row else locale.decimal(None),
                locale.decimal(number(row, "f1")),
                locale.interval(number(row, "f1_low"), number(row, "f1_high")),
            )
        )
    return _table(rows)


def _copies(export: Mapping[str, Any], setting: Setting) -> list[str]:
    """The int8 copy and the fp16 one, or why they are not there; nothing where none was asked for."""
    locale, int8, fp16 = setting.locale, export.get("int8") or {}, export.get("fp16") or {}
    sizes = export.get("size_mb") or {}
    parts = []
    if int8.get("written"):
        validation = int8["validation"]
        told = locale.text(
            "card_int8",
            recipe=int8["recipe"],
            size=locale.decimal(sizes.get("int8"), 1),
            speed=locale.decimal(int8["speedup"], 1),
            agreement=locale.percent(validation["label_agreement"], 1),
            change=locale.points(validation["macro_f1_delta"]),
            test_agreement=locale.percent(int8["label_agreement"], 1),
            test_change=locale.points(int8["macro_f1_delta"]),
        )
        parts += [told, _variants(int8, setting), locale.text("card_rare"), _rare(int8, setting)]
    elif "written" in int8:
        contract = int8["contract"]
        agreement = locale.percent(contract["min_agreement"], 1)
        drop = locale.decimal(100 * contract["max_drop"], 1)
        told = locale.text("card_int8_none", agreement=agreement, drop=drop)
        parts += [told, _variants(int8, setting)]
    if fp16.get("written"):
        difference = locale.scientific(fp16["max_abs_diff"])
        size = locale.decimal(sizes.get("fp16"), 1)
        parts.append(locale.text("card_fp16", size=size, difference=difference))
    return [f"## {locale.text('card_copies')}", *parts] if parts else []


def _variants(int8: Mapping[str, Any], setting: Setting) -> str:
    """What was tried, on validation."""
    locale = setting.locale
    names = ("recipe", "same", "change", "size", "speed")
    rows = [tuple(locale.text(f"card_{name}") for name in names), ("---", *["---:"] * 4)]
    for variant in int8["variants"]:
        rows.append(
            (
                f"`{variant['recipe']}`",
                locale.percent(variant["label_agreement"], 1),
                locale.points(variant["macro_f1_delta"]),
                locale.decimal(variant["size_mb"], 1),
                locale.decimal(variant["texts_per_second"], 1),
            )
        )
    return _table(rows)


def _rare(int8: Mapping[str, Any], setting: Setting) -> str:
    """F1 of each rare class, by both files."""
    locale = setting.locale
    heads = [
        f"{locale.text(f'card_rare_{part}')}, {precision}"
        for part in ("validation", "test")
        for precision in ("fp32", "int8")
    ]
    rows = [(locale.text("label"), locale.text("sizes_card"), *heads), ("---", *["---:"] * 5)]
    for row in int8["rare_classes"]:
        examples = row["examples"]
        rows.append(
            (
                escape(row["label"]),
                locale.decimal(None) if examples is None else locale.integer(examples),
                *(
                    locale.decimal(row[f"{part}_{precision}"])
                    for part in ("validation", "test")
                    for precision in ("fp32", "int8")
                ),
            )
        )
    return _table(rows)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
