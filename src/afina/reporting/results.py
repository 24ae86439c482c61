"""The results: the head of the page, and the sections on how well the model does. No files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from markupsafe import Markup

from afina.evaluation.curves import MACRO, MICRO
from afina.evaluation.intervals import headline_metrics
from afina.evaluation.metrics import FEW_ROWS
from afina.evaluation.slices import NO_VALUE, OTHER
from afina.evaluation.tables import NONE
from afina.reporting.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Figures,
    Heading,
    Matrix,
    Paragraph,
    Section,
    Share,
    Table,
    Tile,
)
from afina.reporting.charts import Axis, Guide, Series, key, line_chart, nice_ticks, score_bar
from afina.reporting.inputs import EXAMPLES, Inputs, Row, Rows, integer, number
from afina.reporting.locale import MISSING, Locale
from afina.reporting.setting import (
    Setting,
    decimal_cell,
    flag,
    is_few,
    label_name,
    month_name,
    score_cell,
    scores_of_classes,
    shorten,
)

MATRIX_LABELS = 40  # more columns than that fit no screen
MOST_PAIRS = 10
MOST_SLICES = 12
SHADES = 5
SHOWN_RECALL = 0.8  # at which precision is told in words
CURVE_STYLES = (1, 2, 4)  # of the weakest labels
TFIDF = "tfidf"
FINE_TUNED = "fine-tuned"


# --------------------------------------------------------------------------------- head of the page


def headline(inputs: Inputs, setting: Setting) -> str:
    """What a reader should know if only one sentence is read."""
    locale, test = setting.locale, inputs.metrics["test"]
    task = inputs.label_set.task
    metric = headline_metrics(task)[1]
    interval = inputs.metrics.get("interval") or {}
    low, high = interval.get(f"{metric}_low"), interval.get(f"{metric}_high")
    values = {
        "share": _of_hundred(test[metric], locale),
        "messages": locale.count("message", _test_rows(inputs)),
    }
    if low is None or high is None:
        return locale.text(f"headline_{task}_no_interval", **values)
    values |= {
        "low": _of_hundred(low, locale),
        "high": _of_hundred(high, locale),
        "level": locale.given(setting.level),
    }
    return locale.text(f"headline_{task}", **values)


def tiles(inputs: Inputs, setting: Setting) -> list[Tile]:
    """The numbers at the head of the page."""
    locale, test = setting.locale, inputs.metrics["test"]
    metric = headline_metrics(inputs.label_set.task)[1]
    interval = inputs.metrics.get("interval") or {}

    def edges(name: str) -> tuple[float | None, float | None]:
        return interval.get(f"{name}_low"), interval.get(f"{name}_high")

    def note(interval: str) -> str:
        return "" if interval == MISSING else locale.text("tile_interval", interval=interval)

    found = []
    if metric == "accuracy":
        within = locale.percent_between(*edges(metric), digits=1)
        shown = locale.percent(test[metric], 1)
        found.append(Tile(locale.text("tile_accuracy"), shown, str(test[metric]), note(within)))
    else:
        shown = locale.decimal(test[metric])
        found.append(
            Tile(locale.text("tile_micro_f1"), shown, str(test[metric]), note(locale.between(*edges(metric))))
        )
    macro = test["macro_f1"]
    found.append(
        Tile(
            locale.text("tile_macro_f1"),
            locale.decimal(macro),
            str(macro),
            note(locale.between(*edges("macro_f1"))),
        )
    )
    if "subset_accuracy" in test:
        exact = test["subset_accuracy"]
        found.append(Tile(locale.text("tile_subset_accuracy"), locale.percent(exact, 1), str(exact)))
    abstention = inputs.evaluation.get("abstention") or {}
    if abstention.get("target_accuracy") is not None:
        target, coverage = abstention["target_accuracy"], abstention["coverage"]
        name = locale.text("tile_coverage", target=locale.given(target))
        found.append(
            Tile(name, locale.percent(coverage, 1), str(coverage), locale.text("tile_coverage_note"))
        )
    rows, classes = _test_rows(inputs), locale.count("class", len(inputs.label_set.labels))
    of_classes = locale.text("tile_classes", classes=classes)
    found.append(Tile(locale.text("tile_test"), locale.integer(rows), str(rows), of_classes))
    return found


def _test_rows(inputs: Inputs) -> int:
    return int((inputs.metrics.get("rows") or {}).get("test", 0))


def _of_hundred(share: float, locale: Locale) -> str:
    """A share as so many of a hundred, with a decimal only where it would look like all or none."""
    return locale.percent(share).rstrip("%").rstrip()


# -------------------------------------------------------------------------------------------- trust


def trust(inputs: Inputs, setting: Setting) -> Section:
    """The model beside simpler ones."""
    locale = setting.locale
    rows = sorted(
        inputs.models or _models_of_metrics(inputs),
        key=lambda row: (row["model"] != FINE_TUNED, -(number(row, "macro_f1") or 0.0)),
    )
    blocks: list[Block] = []
    if rows:
        plain = next((row for row in rows if row["model"] == TFIDF), None)
        if plain is not None and "difference" in plain:
            blocks.append(_verdict(plain, locale))
        second = headline_metrics(inputs.label_set.task)[1]
        blocks += [
            Paragraph(locale.text("trust_intro", level=locale.given(setting.level))),
            _models_table(rows, second, locale),
        ]
    return Section("trust", locale.text("trust"), blocks)


def _verdict(plain: Row, locale: Locale) -> Paragraph:
    """Whether the fine-tuned model beats the linear one, in a sentence."""
    difference, low, high = (number(plain, f"difference{end}") for end in ("", "_low", "_high"))
    if difference is None or low is None or high is None:
        return Paragraph(locale.known("verdict", plain.get("fine_tuned_is", MISSING)), "note")
    verdict = plain.get("fine_tuned_is")
    if verdict in ("better", "worse"):
        if verdict == "worse":
            difference, low, high = -difference, -high, -low
        values = {"difference": difference, "low": low, "high": high}
        points = {name: locale.decimal(100 * value, 1) for name, value in values.items()}
        return Paragraph(locale.text(f"trust_{verdict}", **points), "good" if verdict == "better" else "bad")
    points = {"difference": locale.points(difference), "low": locale.points(low), "high": locale.points(high)}
    return Paragraph(locale.text("trust_unclear", **points), "note")


def _models_of_metrics(inputs: Inputs) -> Rows:
    """What metrics.json says of the models, for a run without models.csv."""
    metrics, second = inputs.metrics, headline_metrics(inputs.label_set.task)[1]
    baseline, untrained = metrics.get("baseline") or {}, metrics.get("untrained") or {}
    found = {
        FINE_TUNED: (metrics["test"].get("macro_f1"), metrics["test"].get(second)),
        TFIDF: (baseline.get("tfidf_macro_f1"), baseline.get(f"tfidf_{second}")),
        "majority": (baseline.get("majority_macro_f1"), None),
        "untrained": (untrained.get("macro_f1"), None),
    }
    return [
        {"model": name}
        | {
            column: str(value)
            for column, value in (("macro_f1", scores[0]), (second, scores[1]))
            if value is not None
        }
        for name, scores in found.items()
        if scores[0] is not None
    ]


def _models_table(rows: Rows, second: str, locale: Locale) -> Table:
    compared = any("difference" in row for row in rows)
    columns = [
        Column(locale.text("model"), "name"),
        Column(locale.text("bar")),
        Column(locale.text("measure.macro_f1"), "num"),
        Column(locale.text("interval"), "num"),
        Column(locale.known("score", second), "num"),
    ]
    if compared:
        columns += [
            Column(locale.text("difference"), "num"),
            Column(locale.text("difference_interval"), "num"),
            Column(locale.text("verdict")),
        ]
    table = []
    for row in rows:
        score, low, high = (number(row, f"macro_f1{end}") for end in ("", "_low", "_high"))
        style = "own" if row["model"] == FINE_TUNED else "other"
        cells = [
            Cell(locale.known("model", row["model"]), tone="name"),
            Cell(score_bar(score, low, high, style)),
            decimal_cell(score, locale),
            Cell(locale.interval(low, high), tone="num"),
            score_cell(number(row, second), second, locale),
        ]
        if compared:
            difference, left, right = (number(row, f"difference{end}") for end in ("", "_low", "_high"))
            cells += [
                Cell(locale.signed(difference), difference, "num"),
                Cell(_signed_interval(left, right, locale), tone="num"),
                Cell(locale.known("verdict", row.get("fine_tuned_is", MISSING))),
            ]
        table.append(cells)
    return Table(locale.text("trust"), columns, table)


def _signed_interval(low: float | None, high: float | None, locale: Locale) -> str:
    if low is None or high is None:
        return MISSING
    return locale.text("signed_interval", low=locale.signed(low), high=locale.signed(high))


# ------------------------------------------------------------------------------------------ classes


def classes(inputs: Inputs, setting: Setting) -> Section:
    """The scores of every class, best first."""
    locale, rows = setting.locale, scores_of_classes(inputs)
    if not rows:
        return Section("classes", locale.text("classes"))
    trained = {row.get("label"): integer(row, "train") for row in inputs.split_classes}
    ordered = sorted(rows, key=lambda row: (-(number(row, "f1") or 0.0), row["label"]))
    thresholds = any("threshold" in row for row in rows)
    columns = [
        Column(locale.text("label"), "name"),
        Column(locale.text("bar")),
        Column(locale.text("f1"), "num"),
        Column(locale.text("interval"), "num"),
        Column(locale.text("precision"), "num"),
        Column(locale.text("recall"), "num"),
        Column(locale.text("support"), "num"),
        Column(locale.text("train_rows"), "num"),
        Column(locale.text("baseline_f1"), "num"),
        *([Column(locale.text("threshold"), "num")] if thresholds else []),
    ]
    table = Table(
        locale.text("classes"),
        columns,
        [_class_row(row, trained.get(row["label"]), thresholds, locale) for row in ordered],
        sortable=True,
    )
    blocks: list[Block] = [
        Paragraph(locale.text("classes_intro", level=locale.given(setting.level))),
        table,
    ]
    if any(is_few(row) for row in rows):
        blocks.insert(1, Paragraph(locale.text("few_explained", limit=locale.integer(FEW_ROWS)), "note"))
    figures = _precision_recall_figure(inputs, locale)
    if figures:
        blocks.append(Figures(figures))
    return Section("classes", locale.text("classes"), blocks)


def _class_row(row: Row, trained: int | None, thresholds: bool, locale: Locale) -> list[Cell]:
    f1, low, high = (number(row, name) for name in ("f1", "f1_low", "f1_high"))
    few = is_few(row)
    name: str | Markup = row["label"]
    if few:
        name = Markup("{} {}").format(name, flag(locale.text("few")))
    support = integer(row, "support")
    cells = [
        Cell(name, row["label"].casefold(), "name"),
        Cell(score_bar(f1, low, high, "few" if few else "own"), f1),
        decimal_cell(f1, locale),
        Cell(locale.interval(low, high), low, "num"),
        decimal_cell(number(row, "precision"), locale),
        decimal_cell(number(row, "recall"), locale),
        Cell(locale.integer(support), support, "num"),
        Cell(MISSING if trained is None else locale.integer(trained), trained, "num"),
        decimal_cell(number(row, "baseline_f1"), locale),
    ]
    return [*cells, decimal_cell(number(row, "threshold"), locale)] if thresholds else cells


def _precision_recall_figure(inputs: Inputs, locale: Locale) -> list[Figure]:
    """The averages over all labels, and the weakest labels by name: more lines than that cannot be read."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in inputs.precision_recall:
        point = (number(row, "recall") or 0.0, number(row, "precision") or 0.0)
        curves.setdefault(row.get("label", ""), []).append(point)
    averages = {name: curves.pop(name) for name in (MACRO, MICRO) if name in curves}
    if MACRO not in averages or not curves:
        return []
    few = {row["label"] for row in scores_of_classes(inputs) if is_few(row)}
    series = [Series(locale.known("curve", MACRO), averages[MACRO], 0, marked=False)]
    for style, (label, points) in zip(CURVE_STYLES, curves.items(), strict=False):
        name = locale.text("curve_few", label=label) if label in few else label
        series.append(Series(name, points, style, marked=False))
    if MICRO in averages:
        series.append(Series(locale.known("curve", MICRO), averages[MICRO], 3, marked=False))
    recall = min((x for x, _ in averages[MACRO]), key=lambda x: abs(x - SHOWN_RECALL))
    lowest, worst = min((_at(points, recall), label) for label, points in curves.items())
    said = {"recall": locale.percent(recall), "average": locale.percent(_at(averages[MACRO], recall))}
    ticks = nice_ticks(0, 1)
    title = locale.text("precision_recall")
    chart = line_chart(
        "precision-recall",
        title,
        locale.text("precision_recall_alt", **said),
        series,
        Axis(locale.text("recall_axis"), 0, 1, ticks, locale.percent),
        Axis(locale.text("precision_axis"), 0, 1, ticks, locale.percent),
    )
    note = locale.text("precision_recall_note", **said, label=worst, lowest=locale.percent(lowest))
    return [Figure(title, chart, [(key(line.style, marked=False), line.name) for line in series], note)]


def _at(points: Sequence[tuple[float, float]], place: float) -> float:
    """The height of a curve at the point nearest to a place."""
    return min(points, key=lambda point: abs(point[0] - place))[1]


# ---------------------------------------------------------------------------------------- confusion


def confusion(inputs: Inputs, setting: Setting) -> Section:
    """The confusion matrix, and the most frequent confusions with some texts each."""
    locale = setting.locale
    counts = Counter((row.get("actual", NONE), row.get("predicted", NONE)) for row in inputs.confusion)
    if not counts:
        return Section("confusion", locale.text("confusion"))
    wrong = {pair: times for pair, times in counts.items() if pair[0] != pair[1]}
    shown = _shown_labels(inputs.label_set.labels, wrong)
    blocks: list[Block] = [Heading(locale.text("matrix")), Paragraph(locale.text("matrix_intro"))]
    if inputs.label_set.task == "multilabel":
        blocks.append(Paragraph(locale.text("matrix_multilabel"), "note"))
    rest = len(inputs.label_set.labels) - len(shown)
    if rest:
        cut = {"shown": locale.integer(len(shown)), "rest": locale.integer(rest)}
        blocks.append(Paragraph(locale.text("matrix_cut", **cut), "note"))
    blocks += [_matrix(counts, shown, rest > 0, locale), Heading(locale.text("pairs"))]
    if not wrong:
        return Section(
            "confusion", locale.text("confusion"), [*blocks, Paragraph(locale.text("no_confusions"))]
        )
    blocks.append(Paragraph(_pairs_intro(inputs, setting)))
    blocks.append(_pairs_table(wrong, inputs, setting))
    return Section("confusion", locale.text("confusion"), blocks)


def _shown_labels(labels: Sequence[str], wrong: dict[tuple[str, str], int]) -> list[str]:
    """The labels of the matrix, in their order: all, or those with most errors."""
    if len(labels) <= MATRIX_LABELS:
        return list(labels)
    errors: Counter[str] = Counter()
    for (actual, predicted), times in wrong.items():
        errors[actual] += times
        errors[predicted] += times
    kept = set(sorted(labels, key=lambda label: (-errors[label], labels.index(label)))[: MATRIX_LABELS - 1])
    return [label for label in labels if label in kept]


def _matrix(counts: Counter[tuple[str, str]], shown: Sequence[str], pooled: bool, locale: Locale) -> Matrix:
    known = set(shown)
    grouped: Counter[tuple[str | None, str | None]] = Counter()
    for pair, times in counts.items():
        first, second = (name if name in known or name == NONE else None for name in pair)
        grouped[first, second] += times
    keys: list[str | None] = [*shown, *([None] if pooled else [])]
    if any(NONE in pair for pair in counts):
        keys.append(NONE)
    names = [locale.text("other_labels") if name is None else label_name(name, locale) for name in keys]
    rows = []
    for at, actual in enumerate(keys):
        total = sum(grouped[actual, predicted] for predicted in keys)
        row = []
        for to, said in enumerate(keys):
            times = grouped[actual, said]
            level = -(-times * SHADES // total) if total else 0  # rounded up: one error is seen
            messages = locale.count("message", times)
            title = locale.text("matrix_cell", actual=names[at], predicted=names[to], messages=messages)
            # What is pooled may be right or wrong.
            mixed = actual is None and said is None
            shade = 0 if mixed else level
            row.append(
                Share(
                    locale.integer(times) if times else "",
                    shade,
                    title,
                    at == to and not mixed and said != NONE,
                )
            )
        rows.append(row)
    return Matrix(locale.text("matrix"), names, rows)


def _texts(pair: tuple[str, str], inputs: Inputs, setting: Setting) -> list[str]:
    return list(inputs.examples.get(pair, ()))[: setting.examples]


def _pairs_intro(inputs: Inputs, setting: Setting) -> str:
    """What the list is, and what its texts are if it has some."""
    locale, most = setting.locale, min(EXAMPLES, setting.examples)
    if not inputs.examples or not most:
        return locale.text("pairs_intro_plain")
    return locale.text("pairs_intro", most=locale.count("message", most))


def _pairs_table(wrong: dict[tuple[str, str], int], inputs: Inputs, setting: Setting) -> Table:
    locale = setting.locale
    # Not the pairs of a label: a row with several labels has one for each label wrongly predicted.
    rows = {row["label"]: integer(row, "support") for row in scores_of_classes(inputs)}
    quoted = any(_texts(pair, inputs, setting) for pair in wrong)
    found = []
    for pair, times in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:MOST_PAIRS]:
        support = rows.get(pair[0])
        share = times / support if support else None
        found.append(
            [
                Cell(label_name(pair[0], locale), tone="name"),
                Cell(label_name(pair[1], locale), tone="name"),
                Cell(locale.integer(times), times, "num"),
                Cell(locale.percent(share), share, "num"),
                *([Cell(_quoted(_texts(pair, inputs, setting), setting), tone="text")] if quoted else []),
            ]
        )
    columns = [
        Column(locale.text("actual"), "name"),
        Column(locale.text("predicted"), "name"),
        Column(locale.text("times"), "num"),
        Column(locale.text("share_of_class"), "num"),
        *([Column(locale.text("example"), "text")] if quoted else []),
    ]
    return Table(locale.text("pairs"), columns, found)


def _quoted(texts: Sequence[str], setting: Setting) -> str | Markup:
    """Texts below each other in one cell."""
    cut = [shorten(text, setting.text_length) for text in texts]
    if len(cut) < 2:
        return "".join(cut) or MISSING
    entries = Markup("").join(Markup("<li>{}</li>").format(text) for text in cut)
    return Markup('<ul class="texts">{}</ul>').format(entries)


# --------------------------------------------------------------------------------------- confidence


def confidence(inputs: Inputs, setting: Setting) -> Section:
    """When the model may answer alone, and whether its confidence is what it says."""
    locale = setting.locale
    abstention = inputs.evaluation.get("abstention") or {}
    blocks: list[Block] = []
    if abstention.get("target_accuracy") is not None:
        known = (inputs.split.get("rows") or {}).get("validation")
        blocks.append(_abstention(abstention, known, locale))
    figures = [
        *_risk_coverage_figure(inputs.risk_coverage, abstention, locale),
        *_reliability_figure(inputs, locale),
    ]
    if figures:
        blocks.append(Figures(figures))
    return Section("confidence", locale.text("confidence"), blocks)


def _abstention(found: dict[str, Any], known: int | None, locale: Locale) -> Paragraph:
    """What the threshold of abstention comes to; ``known``: the validation rows it was fitted on."""
    target = locale.given(found["target_accuracy"])
    if found["threshold"] is None and known is not None and known < FEW_ROWS:
        rows, least = locale.count("message", known), locale.integer(FEW_ROWS)
        return Paragraph(locale.text("abstain_unknown", target=target, rows=rows, least=least), "bad")
    if found["threshold"] is None:
        return Paragraph(locale.text("abstain_never", target=target), "bad")
    threshold = locale.percent(found["threshold"], 1)
    if found["accuracy"] is None:  # of no test row
        return Paragraph(locale.text("abstain_unreached", target=target, threshold=threshold), "bad")
    values = {
        "accuracy": locale.percent(found["accuracy"], 1),
        "interval": locale.percent_between(found["accuracy_low"], found["accuracy_high"], 1),
        "target": target,
    }
    if found["threshold"] == 0:
        return Paragraph(locale.text("abstain_all", **values), "lead")
    values |= {"threshold": threshold, "coverage": locale.percent(found["coverage"], 1)}
    return Paragraph(locale.text("abstain", **values), "lead")


def _risk_coverage_figure(rows: Rows, abstention: dict[str, Any], locale: Locale) -> list[Figure]:
    points = [(number(row, "coverage") or 0.0, number(row, "accuracy") or 0.0) for row in rows]
    if not points:
        return []
    target = abstention.get("target_accuracy")
    least = min([accuracy for _, accuracy in points] + ([] if target is None else [target]))
    ticks = nice_ticks(min(least, 0.98), 1.0, 4)
    guides = []
    note = ""
    if target is not None:
        guides.append(Guide(target, locale.text("target", target=locale.given(target))))
        reached = [coverage for coverage, accuracy in points if accuracy >= target]
        said = {"target": locale.given(target), "coverage": locale.percent(max(reached, default=0.0), 1)}
        note = locale.text("abstain_test", **said)
        coverage = abstention.get("coverage") or 0.0
        if 0 < coverage < 1:
            guides.append(Guide(coverage, locale.text("chosen"), upright=True))
    title = locale.text("risk_coverage")
    chart = line_chart(
        "risk",
        title,
        locale.text(
            "risk_coverage_alt",
            full=locale.percent(points[-1][1], 1),
            target=MISSING if target is None else locale.given(target),
        ),
        [Series(locale.text("answers"), points, 0, marked=False)],
        Axis(locale.text("coverage_axis"), 0, 1, nice_ticks(0, 1), locale.percent),
        Axis(locale.text("accuracy_axis"), ticks[0], ticks[-1], ticks, _percent_axis(ticks, locale)),
        guides,
    )
    return [Figure(title, chart, (), note)]


def _percent_axis(ticks: Sequence[float], locale: Locale) -> Callable[[float], str]:
    digits = 0 if all(round(100 * tick, 6) == round(100 * tick) for tick in ticks) else 1
    return lambda value: locale.percent(value, digits)


def _reliability_figure(inputs: Inputs, locale: Locale) -> list[Figure]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in inputs.reliability:
        point = (number(row, "confidence") or 0.0, number(row, "accuracy") or 0.0)
        lines.setdefault(row.get("label", ""), []).append(point)
    diagonal = lines.pop("perfect", [(0.0, 0.0), (1.0, 1.0)])
    if not lines:
        return []
    if "calibrated" not in lines and "as trained" in lines:
        lines["uncalibrated"] = lines.pop("as trained")  # of what was never calibrated, there is no before
    styles = {"as trained": 1, "calibrated": 0, "uncalibrated": 0}
    series = [Series(locale.known("state", "perfect"), diagonal, 3, marked=False)]
    series += [
        Series(locale.known("state", name), points, styles.get(name, 2)) for name, points in lines.items()
    ]
    ticks = nice_ticks(0, 1)
    title = locale.text("reliability")
    chart = line_chart(
        "reliability",
        title,
        locale.text("reliability_alt"),
        series,
        Axis(locale.text("stated_axis"), 0, 1, ticks, locale.percent),
        Axis(locale.text("true_axis"), 0, 1, ticks, locale.percent),
    )
    return [
        Figure(title, chart, [(key(line.style), line.name) for line in series], _calibration(inputs, locale))
    ]


def _calibration(inputs: Inputs, locale: Locale) -> str:
    found = inputs.evaluation.get("calibration") or {}
    if "ece" not in found:
        return ""
    after = locale.decimal(100 * found["ece"], 1)
    if not inputs.calibrated:
        return locale.text("calibration_one", after=after)
    before = locale.decimal(100 * found["uncalibrated_ece"], 1)
    return locale.text("calibration_both", after=after, before=before)


# ------------------------------------------------------------------------------------------- slices


def slices(inputs: Inputs, setting: Setting) -> Section:
    """The groups of test messages with the worst scores."""
    locale, metric = setting.locale, headline_metrics(inputs.label_set.task)[1]
    # What small values have in common is nothing that a reader could act on.
    named = [row for row in inputs.slices if row.get("value") != OTHER]
    rows = named[:MOST_SLICES]
    if not rows:
        return Section("slices", locale.text("slices"))
    columns = [
        Column(locale.text("slice"), "name"),
        Column(locale.text("slice_by")),
        Column(locale.text("bar_slice")),
        Column(locale.known("score", metric), "num"),
        Column(locale.text("interval"), "num"),
        Column(locale.text("expected"), "num"),
        Column(locale.text("support"), "num"),
        Column(locale.text("remark")),
    ]
    table = []
    for row in rows:
        score, low, high = (number(row, f"{metric}{end}") for end in ("", "_low", "_high"))
        expected = number(row, f"expected_{metric}")
        below = high is not None and expected is not None and high < expected
        remarks = [locale.text("below_expected")] if below else []
        remarks += [locale.text("few")] if "few_rows" in row else []
        interval = locale.percent_interval(low, high) if metric == "accuracy" else locale.interval(low, high)
        table.append(
            [
                Cell(_slice_value(row.get("column", ""), row.get("value", ""), locale), tone="name"),
                Cell(locale.known("column", row.get("column", ""))),
                Cell(score_bar(score, low, high, "few" if "few_rows" in row else "own")),
                score_cell(score, metric, locale),
                Cell(interval, tone="num"),
                score_cell(expected, metric, locale),
                Cell(locale.integer(integer(row, "rows")), tone="num"),
                Cell(_flags(remarks)),
            ]
        )
    return Section(
        "slices",
        locale.text("slices"),
        [
            Paragraph(locale.text("slices_intro")),
            Table(locale.text("slices"), columns, table),
            Paragraph(
                locale.text(
                    "slices_shown", shown=locale.integer(len(rows)), all=locale.integer(len(inputs.slices))
                )
            ),
        ],
    )


def _flags(remarks: Iterable[str]) -> Markup:
    return Markup(" ").join(map(flag, remarks))


def _slice_value(column: str, value: str, locale: Locale) -> str:
    """The name of a slice; in the words of the language where evaluate named it, else as in the data."""
    if value == NO_VALUE:
        return locale.known("value", value)
    length = re.fullmatch(r"(\d+)(?:-(\d+))? (words?)", value)
    if column == "length" and length:
        numbers = "\u2013".join(locale.integer(int(part)) for part in length.group(1, 2) if part)
        return f"{numbers} {locale.text(f'unit.{length.group(3)}')}"
    if column == "month" and re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", value):
        return month_name(f"{value}-01", locale)
    named = locale.known("value", f"{column}.{value}")
    return value if named == f"{column}.{value}" else named
