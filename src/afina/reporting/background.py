"""The background: mistakes and doubtful labels, data, training, limits, use, terms. No files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from afina.reporting.blocks import (
    Bar,
    Bars,
    Block,
    Cell,
    Code,
    Column,
    Facts,
    Figure,
    Figures,
    Heading,
    Paragraph,
    Points,
    Section,
    Table,
)
from afina.reporting.charts import Axis, Series, histogram, key, line_chart, nice_ticks
from afina.reporting.inputs import Inputs, Row, Rows, number, split_names
from afina.reporting.locale import MISSING, Locale
from afina.reporting.setting import (
    Setting,
    is_few,
    label_names,
    month_name,
    scores_of_classes,
    shorten,
)

# ----------------------------------------------------------------------------------------- mistakes


def mistakes(inputs: Inputs, setting: Setting) -> Section:
    """The wrong answers that the model was surest of."""
    locale = setting.locale
    rows = inputs.mistakes[: setting.examples]
    if not rows:
        return Section("mistakes", locale.text("mistakes"))
    columns = [
        Column(locale.text("actual"), "name"),
        Column(locale.text("predicted"), "name"),
        Column(locale.text("sureness"), "num"),
        Column(locale.text("text"), "text"),
        Column("id"),
    ]
    table = [
        [
            Cell(label_names(row.get("actual"), inputs.label_set.labels, locale), tone="name"),
            Cell(label_names(row.get("predicted"), inputs.label_set.labels, locale), tone="name"),
            Cell(locale.percent(number(row, "confidence"), 1), tone="num"),
            Cell(shorten(row.get("text", MISSING), setting.text_length), tone="text"),
            Cell(row.get("id", MISSING), tone="id"),
        ]
        for row in rows
    ]
    blocks = [Paragraph(locale.text("mistakes_intro")), Table(locale.text("mistakes"), columns, table)]
    return Section("mistakes", locale.text("mistakes"), blocks)


# ------------------------------------------------------------------------------------------- labels


def labels(inputs: Inputs, setting: Setting, audited: bool = True) -> Section:
    """Labels that are likely wrong, and labels that look like one class.

    Args:
        audited: whether they were looked for; nothing is said where they were not.
    """
    locale = setting.locale
    if not audited:
        return Section("labels", locale.text("labels"))
    blocks: list[Block] = [Heading(locale.text("issues"))]
    if inputs.issues:
        shown = inputs.issues[: setting.examples]
        values = {"shown": locale.integer(len(shown)), "total": locale.integer(len(inputs.issues))}
        intro = locale.text("issues_intro", **values, file="reports/label_issues.csv")
        blocks += [
            Paragraph(intro),
            *([_issues_table(shown, inputs.label_set.labels, setting)] if shown else []),
        ]
    else:
        blocks.append(Paragraph(locale.text("issues_none")))
    blocks.append(Heading(locale.text("similar")))
    if inputs.pairs:
        blocks += [Paragraph(locale.text("similar_intro")), _similar_table(inputs.pairs, setting.locale)]
    else:
        blocks.append(Paragraph(locale.text("similar_none")))
    return Section("labels", locale.text("labels"), blocks)


def _issues_table(rows: Rows, names: Sequence[str], setting: Setting) -> Table:
    locale = setting.locale
    columns = [
        Column(locale.text("given"), "name"),
        Column(locale.text("suggested"), "name"),
        Column(locale.text("text"), "text"),
        Column(locale.text("doubted_by")),
        Column(locale.text("split")),
        Column("id"),
    ]
    table = [
        [
            Cell(label_names(row.get("given"), names, locale), tone="name"),
            Cell(label_names(row.get("suggested"), names, locale), tone="name"),
            Cell(shorten(row.get("text", MISSING), setting.text_length), tone="text"),
            Cell(", ".join(locale.known("doubter", name) for name in split_names(row.get("doubted_by")))),
            Cell(locale.known("split", row.get("split", MISSING))),
            Cell(row.get("id", MISSING), tone="id"),
        ]
        for row in rows
    ]
    return Table(locale.text("issues"), columns, table)


def _similar_table(rows: Rows, locale: Locale) -> Table:
    columns = [
        Column(locale.text("label"), "name"),
        Column(locale.text("other"), "name"),
        Column(locale.text("alike"), "num"),
        Column(locale.text("goes_to_other"), "num"),
        Column(locale.text("comes_back"), "num"),
        Column(locale.text("advice"), "advice"),
    ]
    table = [
        [
            Cell(row.get("label", MISSING), tone="name"),
            Cell(row.get("other", MISSING), tone="name"),
            Cell(locale.decimal(number(row, "score"), 2), tone="num"),
            Cell(locale.percent(number(row, "label_as_other")), tone="num"),
            Cell(locale.percent(number(row, "other_as_label")), tone="num"),
            Cell(advice(row, locale), tone="advice"),
        ]
        for row in rows
    ]
    return Table(locale.text("similar"), columns, table)


def advice(row: Row, locale: Locale) -> str:
    """What `afina.auditing.label_pairs` suggests for a pair, in the language; its own words if not known."""
    said, pair = row.get("suggestion", ""), (row.get("label", ""), row.get("other", ""))
    if said.startswith("hardly told apart"):
        return locale.text("advice.merge")
    if said.startswith("they overlap"):
        return locale.text("advice.overlap")
    for lost, taker in (pair, pair[::-1]):
        if said.startswith(f"'{lost}' disappears in '{taker}'"):
            return locale.text("advice.absorbed", lost=lost, taker=taker)
    return said


# --------------------------------------------------------------------------------------------- data


def data(inputs: Inputs, setting: Setting) -> Section:
    """What the model was trained on."""
    locale = setting.locale
    blocks: list[Block] = [Facts(facts(inputs, setting))]
    longest = (inputs.summary.get("words") or {}).get("max") or 0
    figures = _length_figure(inputs.lengths, longest, locale)
    counts = inputs.label_set.counts
    if counts:
        most = max(counts.values()) or 1
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        blocks += [
            Heading(locale.text("sizes")),
            Bars([Bar(name, locale.integer(rows), rows / most) for name, rows in ordered]),
        ]
    if figures:
        blocks.append(Figures(figures))
    rejected = inputs.cleaning.get("rejected") or {}
    if rejected:
        blocks += [
            Heading(locale.text("funnel")),
            Paragraph(locale.text("funnel_intro", file="data/clean/rejected.csv")),
            Table(
                locale.text("funnel"),
                [Column(locale.text("reason_column"), "name"), Column(locale.text("rows_column"), "num")],
                [
                    [
                        Cell(locale.known("reason", reason), tone="name"),
                        Cell(locale.integer(rows), rows, "num"),
                    ]
                    for reason, rows in sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
                ],
            ),
        ]
    return Section("data", locale.text("data"), blocks)


def facts(inputs: Inputs, setting: Setting) -> list[tuple[str, str]]:
    """Names and contents of what is known of the data and the training, for the page and the card."""
    locale, summary, counts = setting.locale, inputs.summary, inputs.label_set.counts
    found: list[tuple[str, str | None]] = [
        ("fact_task", locale.text(f"task.{inputs.label_set.task}")),
        ("fact_sources", _sources(summary.get("sources") or {}, locale)),
        ("fact_period", _period(summary.get("time") or {}, locale)),
        ("fact_rows", _rows_used(summary.get("rows") or {}, locale)),
        ("fact_split", _split(inputs.split.get("rows") or {}, locale)),
        ("fact_classes", _class_sizes(list(counts.values()), locale)),
        ("fact_backbone", _backbone(inputs.model, locale)),
        ("fact_training", _kept_epoch(inputs.training, locale)),
        ("fact_imbalance", _imbalance(inputs, setting)),
        ("fact_length", _length(summary.get("words") or {}, locale)),
        ("fact_truncated", _truncated(inputs.evaluation.get("truncated") or {}, locale)),
    ]
    return [(locale.text(name), shown) for name, shown in found if shown]


def _sources(sources: dict[str, int], locale: Locale) -> str:
    return ", ".join(f"{name} ({locale.integer(rows)})" for name, rows in sources.items())


def _period(time: dict[str, Any], locale: Locale) -> str | None:
    first, last = time.get("first"), time.get("last")
    if not first or not last:
        return None
    return locale.text("period", first=month_name(first, locale), last=month_name(last, locale))


def _rows_used(rows: dict[str, Any], locale: Locale) -> str | None:
    if "clean" not in rows or "raw" not in rows:
        return None
    return locale.text("rows_used", clean=locale.integer(rows["clean"]), raw=locale.integer(rows["raw"]))


def _split(rows: dict[str, int], locale: Locale) -> str | None:
    names = ("train", "validation", "test")
    if any(name not in rows for name in names):
        return None
    return locale.text("split_rows", **{name: locale.integer(rows[name]) for name in names})


def _class_sizes(sizes: list[int], locale: Locale) -> str | None:
    if not sizes:
        return None
    return locale.text(
        "class_sizes",
        classes=locale.count("class", len(sizes)),
        smallest=locale.integer(min(sizes)),
        largest=locale.integer(max(sizes)),
    )


def _backbone(model: Any, locale: Locale) -> str | None:
    if not model.get("backbone"):
        return None
    licence = model.get("backbone_licence") or locale.text("licence_unknown")
    return locale.text("backbone_licence", backbone=model["backbone"], licence=licence)


def _kept_epoch(training: Rows, locale: Locale) -> str | None:
    # As training does: of epochs with one macro-F1, the one with the lower loss.
    scores = [
        (number(row, "validation_macro_f1") or 0.0, -(number(row, "validation_loss") or 0.0))
        for row in training
    ]
    if not scores:
        return None
    best = scores.index(max(scores)) + 1
    return locale.text("training_epochs", best=locale.integer(best), epochs=locale.integer(len(scores)))


def _imbalance(inputs: Inputs, setting: Setting) -> str | None:
    """The strategy, and what else corrects the imbalance; that alone where there is no strategy."""
    if setting.strategy is None:
        return None
    tau = (inputs.metrics.get("logit_adjustment") or {}).get("tau")
    adjusted = [f"evaluate.logit_adjustment {setting.locale.plain(tau)}"] if tau else []
    others = [*setting.corrections, *adjusted]
    strategy = (
        [] if others and setting.strategy == "none" else [setting.locale.known("strategy", setting.strategy)]
    )
    return "; ".join([*strategy, *others])


def _length(words: dict[str, Any], locale: Locale) -> str | None:
    if words.get("p50") is None or words.get("p95") is None:
        return None
    return locale.text("words_of", p50=locale.integer(words["p50"]), p95=locale.integer(words["p95"]))


def _truncated(truncated: dict[str, Any], locale: Locale) -> str | None:
    share = truncated.get("share")
    return None if share is None else locale.percent(share, 1)


def _length_figure(lengths: Rows, longest: int, locale: Locale) -> list[Figure]:
    bars = [(number(row, "words") or 0.0, number(row, "rows") or 0.0) for row in lengths]
    if len(bars) < 2:
        return []
    bars.sort()
    width = min(right[0] - left[0] for left, right in itertools.pairwise(bars))
    last = max(start for start, rows in bars if rows or start == bars[0][0]) + width
    pooled = longest >= last
    ticks = nice_ticks(0, last)
    heights = nice_ticks(0, max(1.0, *(rows for _, rows in bars)), 4)
    title = locale.text("lengths")
    mode = max(bars, key=lambda bar: (bar[1], -bar[0]))[0]
    chart = histogram(
        "lengths",
        title,
        locale.text("lengths_alt", mode=locale.integer(mode)),
        [bar for bar in bars if bar[1]],
        width,
        Axis(locale.text("words_axis"), 0, ticks[-1], ticks, locale.integer),
        Axis(locale.text("messages_axis"), 0, heights[-1], heights, locale.plain),
    )
    note = locale.text("lengths_pooled") if pooled else ""
    return [Figure(title, chart, note=note)]


# ----------------------------------------------------------------------------------------- training


def training(inputs: Inputs, setting: Setting) -> Section:
    """How loss and macro-F1 went, epoch by epoch."""
    locale = setting.locale
    figures = [
        *_epochs_figure(inputs.training, "loss", "loss", "loss_axis", None, locale),
        *_epochs_figure(inputs.training, "macro_f1", "macro_f1_by_epoch", "f1", 1.0, locale),
    ]
    if not figures:
        return Section("training", locale.text("training"))
    return Section(
        "training", locale.text("training"), [Paragraph(locale.text("training_intro")), Figures(figures)]
    )


def _epochs_figure(
    rows: Rows, metric: str, title_key: str, axis_key: str, ceiling: float | None, locale: Locale
) -> list[Figure]:
    names = {"train": "series_train", "validation": "series_validation"}
    series = []
    for style, (part, name) in enumerate(names.items()):
        column = f"{part}_{metric}"
        points = [(number(row, "epoch") or 0.0, number(row, column) or 0.0) for row in rows if column in row]
        if points:
            series.append(Series(locale.text(name), points, 1 - style))
    if not series:
        return []
    epochs = sorted({epoch for line in series for epoch, _ in line.points})
    highest = ceiling or max(value for line in series for _, value in line.points)
    ticks = nice_ticks(0, highest)
    first, last = epochs[0], max(epochs[-1], epochs[0] + 1)
    marks = [tick for tick in nice_ticks(first, last, 6) if tick == int(tick) and first <= tick <= last]
    title = locale.text(title_key)
    ends = {line.name: locale.decimal(line.points[-1][1]) for line in series}
    chart = line_chart(
        f"epochs-{metric.replace('_', '-')}",
        title,
        locale.text(
            "training_alt",
            name=title,
            train=ends.get(locale.text("series_train"), MISSING),
            validation=ends.get(locale.text("series_validation"), MISSING),
        ),
        series,
        Axis(locale.text("epoch_axis"), first, last, marks, locale.integer),
        Axis(locale.text(axis_key), 0, ticks[-1], ticks, locale.plain),
    )
    return [Figure(title, chart, [(key(line.style), line.name) for line in series])]


# ------------------------------------------------------------------------------------------- limits


def limits(inputs: Inputs, setting: Setting) -> Section:
    """What the numbers do not say."""
    locale = setting.locale
    return Section("limits", locale.text("limits"), [Points(limit_sentences(inputs, setting))])


def limit_sentences(inputs: Inputs, setting: Setting) -> list[str]:
    """The limits, for the page and the card."""
    locale, time = setting.locale, inputs.summary.get("time") or {}
    found = []
    if time.get("first") and time.get("last"):
        first, last = (month_name(time[edge], locale) for edge in ("first", "last"))
        found.append(locale.text("limit_period", first=first, last=last))
    else:
        found.append(locale.text("limit_drift"))
    found.append(_other_topics(inputs, locale))
    doubted = sum(row.get("split") == "test" for row in inputs.issues)
    found.append(
        locale.text("limit_labels", messages=locale.count("message", doubted))
        if doubted
        else locale.text("limit_labels_plain")
    )
    small = [row["label"] for row in scores_of_classes(inputs) if is_few(row)]
    if small:
        found.append(locale.text("limit_small", names="; ".join(small)))
    truncated = inputs.evaluation.get("truncated") or {}
    if truncated.get("share"):
        share, length = locale.percent(truncated["share"], 1), locale.integer(truncated["window"])
        found.append(locale.text("limit_truncated", share=share, tokens=length))
    confidence = "limit_confidence" if inputs.calibrated else "limit_confidence_raw"
    return [*found, locale.text("limit_interval"), locale.text(confidence)]


def _other_topics(inputs: Inputs, locale: Locale) -> str:
    number_of = locale.count("class", len(inputs.label_set.labels))
    if inputs.label_set.task == "multilabel":
        return locale.text("limit_other_topics_multilabel", classes=number_of)
    rejected = inputs.cleaning.get("rejected") or {}
    dropped = sum(rejected.get(reason, 0) for reason in ("label dropped", "rare label"))
    if not dropped:
        return locale.text("limit_other_topics_multiclass_none", classes=number_of)
    said = locale.count("message", dropped)
    return locale.text("limit_other_topics_multiclass", classes=number_of, dropped=said)


# ---------------------------------------------------------------------------------------------- use


def use(inputs: Inputs, setting: Setting) -> Section:
    """The files, and how to run them."""
    locale = setting.locale
    blocks: list[Block] = [Paragraph(locale.text("use_intro" if inputs.calibrated else "use_intro_raw"))]
    sizes = inputs.export.get("size_mb") or {}
    if sizes:
        columns = [
            Column(locale.text("file"), "name"),
            Column(locale.text("size"), "num"),
            Column(locale.text("remarks"), "advice"),
        ]
        rows = [
            [
                Cell(name, tone="name"),
                Cell(locale.text("megabytes", n=locale.decimal(sizes[part], 1)), tone="num"),
                Cell(_check(inputs.export, part, locale), tone="advice"),
            ]
            for part, name in (
                ("fp32", "models/onnx/model.onnx"),
                ("int8", "models/onnx/model.int8.onnx"),
                ("fp16", "models/onnx/model.fp16.onnx"),
            )
            if sizes.get(part)
        ]
        blocks.append(Table(locale.text("use"), columns, rows))
    int8 = inputs.export.get("int8") or {}
    if int8.get("written") is False:
        count = locale.integer(len(int8["variants"]))
        blocks.append(Paragraph(locale.text("file_int8_none", variants=count)))
    values = {name: locale.text(f"use_{name}") for name in ("column", "csv", "out")}
    command = "afina predict models/onnx/model.onnx --file {csv} --column {column} --out {out}".format(
        **values
    )
    blocks += [
        Paragraph(locale.text("use_command")),
        Code(command),
        Paragraph(locale.text("use_python")),
        Code(python_example("models/onnx/model.onnx", inputs, locale)),
        Paragraph(locale.text("use_other", file="models/onnx/README.md")),
    ]
    return Section("use", locale.text("use"), blocks)


def _check(export: Any, part: str, locale: Locale) -> str:
    """What export found out about a file."""
    if part == "int8":
        int8 = export.get("int8") or {}
        if "label_agreement" not in int8:
            return MISSING
        agreement = locale.percent(int8["label_agreement"], 1)
        return locale.text("file_int8", agreement=agreement, change=locale.points(int8["macro_f1_delta"]))
    if part == "fp16":
        return locale.text("file_fp16", difference=locale.scientific(export["fp16"]["max_abs_diff"]))
    parity = export.get("parity") or {}
    if "texts" not in parity:
        return MISSING
    texts = locale.count("message", parity["texts"])
    return locale.text("file_fp32", texts=texts, difference=locale.scientific(parity["max_abs_diff"]))


def python_example(path: str, inputs: Inputs, locale: Locale) -> str:
    """A few lines of Python that classify a text."""
    lines = [
        "from afina.runtime import Classifier",
        "",
        f'classifier = Classifier("{path}")',
        f'[prediction] = classifier.predict(["{locale.text("use_sample")}"])',
    ]
    if inputs.label_set.task == "multilabel":
        lines.append("print(prediction.labels)")
    else:
        lines.append("print(prediction.label, prediction.probability)")
    lines += ["if prediction.needs_person:", f'    print("{locale.text("use_doubtful")}")']
    return "\n".join(lines)


# ----------------------------------------------------------------------------- figures and glossary


def figures(inputs: Inputs, setting: Setting) -> Section:
    """Every score of the test, for those who want them all."""
    locale = setting.locale
    scores = {**inputs.metrics["test"], **(inputs.evaluation.get("test") or {}), **inputs.metrics["test"]}
    rows = [(locale.known("measure", name), value) for name, value in scores.items()]
    for name, value in (inputs.metrics.get("validation") or {}).items():
        rows.append((locale.text("measure.validation", name=locale.known("measure", name)), value))
    for name in ("ece", "brier"):
        value = (inputs.metrics.get("calibration") or {}).get(name)
        if value is not None:
            rows.append((locale.text(f"measure.{name}"), value))
    columns = [Column(locale.text("measure"), "name"), Column(locale.text("value"), "num")]
    table = [
        [
            Cell(name, tone="name"),
            Cell(Markup('<data value="{}">{}</data>').format(value, locale.decimal(value)), value, "num"),
        ]
        for name, value in rows
    ]
    blocks = [Paragraph(locale.text("figures_intro")), Table(locale.text("figures"), columns, table)]
    return Section("figures", locale.text("figures"), blocks)


TERMS = (
    "test",
    "f1",
    "macro",
    "precision",
    "interval",
    "confusion",
    "calibration",
    "coverage",
    "invariance",
    "baseline",
    "drift",
)


def glossary(inputs: Inputs, setting: Setting) -> Section:
    """The terms in plain words; without those of a section that is not there."""
    locale = setting.locale
    shown = [term for term in TERMS if term != "invariance" or inputs.behaviour]
    terms = [(locale.text(f"term_{term}"), locale.text(f"means_{term}")) for term in shown]
    return Section("glossary", locale.text("glossary"), [Facts(terms)])
