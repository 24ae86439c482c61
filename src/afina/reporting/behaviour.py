"""How the model took altered copies of messages, and cases written by hand. No files."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from markupsafe import Markup

from afina.labels import LabelSet
from afina.reporting.blocks import (
    Block,
    Cell,
    Column,
    Example,
    Examples,
    Heading,
    Paragraph,
    Section,
    Table,
    Version,
)
from afina.reporting.charts import nice_ticks, score_bar
from afina.reporting.inputs import Inputs, Row, Rows, integer, number
from afina.reporting.locale import MISSING, Locale
from afina.reporting.setting import Setting, flag, label_names, shorten
from afina.runtime.text import clean_text

# Kinds of tests, as in `afina.behaviour.run`; that module needs onnxruntime, which the page does not.
INVARIANCE, DIRECTIONAL, CASES = "INV", "DIR", "MFT"
ALTERNATIVES = " or "  # between labels of which one is expected
FALL = 0.1  # in probability, that a directional test allows
LEVEL = 0.95  # of the intervals
MOST_NAMES = 30  # of cases without a failure; more would be a page of names


def behaviour(inputs: Inputs, setting: Setting) -> Section:
    """What was tried, how much of it failed, and some failures."""
    locale = setting.locale
    by_kind: dict[str, list[Row]] = {}
    for row in inputs.behaviour:
        by_kind.setdefault(row.get("kind", ""), []).append(row)
    same, named, cases = (by_kind.get(kind, []) for kind in (INVARIANCE, DIRECTIONAL, CASES))
    blocks: list[Block] = []
    if same:
        blocks += _invariance(same, locale)
    if named:
        blocks += _directional(named, locale)
    if cases:
        blocks += _cases(cases, locale)
    marked = [
        at
        for at, block in enumerate(blocks)
        if isinstance(block, Table) and block.columns[-1] == _remarks(locale)
    ]
    if marked:
        blocks.insert(marked[0] + 1, Paragraph(locale.text("behaviour_high"), "note"))
    if blocks:
        blocks += _failures(inputs, setting)
    return Section("behaviour", locale.text("behaviour"), blocks)


# --------------------------------------------------------------------------------------- what was tried


def _invariance(rows: Rows, locale: Locale) -> list[Block]:
    copies, failures = (sum(integer(row, name) for row in rows) for name in ("rows", "failures"))
    full = _scale(rows)
    blocks: list[Block] = [Heading(locale.text("invariance"))]
    intro = locale.text("invariance_intro", level=locale.percent(LEVEL), full=locale.percent(full))
    if not copies:
        return [*blocks, Paragraph(locale.text("invariance_none"))]
    said = {"copies": locale.integer(copies), "failures": locale.integer(failures)}
    share = locale.percent(failures / copies, 1)
    return [
        *blocks,
        Paragraph(locale.text("invariance_result", **said, share=share), "lead"),
        Paragraph(intro),
        _tests_table(locale.text("invariance"), rows, full, locale),
    ]


def _directional(rows: Rows, locale: Locale) -> list[Block]:
    full = _scale(rows)
    intro = locale.text("directional_intro", points=locale.integer(100 * FALL), full=locale.percent(full))
    return [
        Heading(locale.text("directional")),
        Paragraph(intro),
        _tests_table(locale.text("directional"), rows, full, locale),
    ]


def _cases(rows: Rows, locale: Locale) -> list[Block]:
    total, failures = (sum(integer(row, name) for row in rows) for name in ("rows", "failures"))
    said = {"passed": locale.integer(total - failures), "total": locale.integer(total)}
    blocks: list[Block] = [Heading(locale.text("cases")), Paragraph(locale.text("cases_intro", **said))]
    failed = sorted(
        (row for row in rows if integer(row, "failures")), key=lambda row: -(number(row, "share") or 0.0)
    )
    passed = [row.get("test", MISSING) for row in rows if not integer(row, "failures")]
    if failed:
        columns = [
            Column(locale.text("case"), "name"),
            Column(locale.text("share_failed")),
            Column(locale.text("failures"), "num"),
            *_remark_column(failed, locale),
        ]
        table = [
            [
                Cell(row.get("test", MISSING), tone="name"),
                Cell(score_bar(number(row, "share"), None, None, "miss")),
                _failures_cell(row, locale),
                *_remark(row, failed, locale),
            ]
            for row in failed
        ]
        blocks.append(Table(locale.text("cases"), columns, table))
    if passed:
        names = "; ".join(passed[:MOST_NAMES])
        if len(passed) > MOST_NAMES:
            names = locale.text("and_more", names=names, more=locale.integer(len(passed) - MOST_NAMES))
        blocks.append(Paragraph(locale.text("cases_passed", names=names)))
    return blocks


def _scale(rows: Rows) -> float:
    """The share that a whole bar stands for: small shares would not be seen beside 100 %."""
    highest = max((number(row, "share_high") or 0.0 for row in rows), default=0.0)
    return min(nice_ticks(0, highest)[-1], 1.0) if highest else 1.0


def _tests_table(caption: str, rows: Rows, full: float, locale: Locale) -> Table:
    """The tests, the one that fails most first."""
    ordered = sorted(rows, key=lambda row: -(number(row, "share") or 0.0))
    columns = [
        Column(locale.text("change"), "name"),
        Column(locale.text("share_failed")),
        Column(locale.text("share_failed_short"), "num"),
        Column(locale.text("interval"), "num"),
        Column(locale.text("failures"), "num"),
        Column(locale.text("right_to_wrong"), "num"),
        Column(locale.text("wrong_to_right"), "num"),
        *_remark_column(ordered, locale),
    ]
    table = []
    for row in ordered:
        share, low, high = (number(row, f"share{end}") for end in ("", "_low", "_high"))
        bar = score_bar(_part(share, full), _part(low, full), _part(high, full), "miss")
        table.append(
            [
                Cell(locale.known("change", row.get("test", MISSING)), tone="name wide"),
                Cell(bar),
                Cell(locale.percent(share, 1), share, "num"),
                Cell(locale.percent_interval(low, high, 1), tone="num"),
                _failures_cell(row, locale),
                Cell(locale.integer(integer(row, "right_to_wrong")), tone="num"),
                Cell(locale.integer(integer(row, "wrong_to_right")), tone="num"),
                *_remark(row, ordered, locale),
            ]
        )
    return Table(caption, columns, table)


def _part(share: float | None, full: float) -> float | None:
    return None if share is None else share / full


def _failures_cell(row: Row, locale: Locale) -> Cell:
    failures, rows = integer(row, "failures"), integer(row, "rows")
    said = locale.text("of_tried", failures=locale.integer(failures), rows=locale.integer(rows))
    return Cell(said if rows else locale.text("not_tried"), failures, "num")


def _remark_column(rows: Rows, locale: Locale) -> list[Column]:
    return [_remarks(locale)] if any("mark" in row for row in rows) else []


def _remarks(locale: Locale) -> Column:
    return Column(locale.text("remark"))


def _remark(row: Row, rows: Rows, locale: Locale) -> list[Cell]:
    if not _remark_column(rows, locale):
        return []
    return [Cell(flag(locale.text("above_limit")) if "mark" in row else "")]


# ------------------------------------------------------------------------------------------- failures


def _failures(inputs: Inputs, setting: Setting) -> list[Block]:
    locale, rows = setting.locale, inputs.behaviour_failures
    shown = chosen(rows, setting.examples)
    if not shown:
        return []
    values = {"shown": locale.integer(len(shown)), "total": locale.integer(len(rows))}
    key = "failures_intro_all" if len(shown) == len(rows) else "failures_intro"
    return [
        Heading(locale.text("failures_heading")),
        Paragraph(locale.text(key, **values, file="data/evaluated/behaviour_failures.csv")),
        Examples([_example(row, inputs.label_set, setting) for row in shown]),
    ]


def chosen(rows: Rows, limit: int) -> list[Row]:
    """At most ``limit`` failures, from all tests alike, the tests in the order of the file.

    Of a test those come first that had the right answer before.
    """
    tests: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(rows):
        tests.setdefault((row.get("kind", ""), row.get("test", "")), []).append(at)
    for places in tests.values():
        places.sort(key=lambda at: (rows[at].get("actual") != rows[at].get("predicted"), at))
    turns = [(turn, place, at) for place, test in enumerate(tests.values()) for turn, at in enumerate(test)]
    kept = [(place, turn, at) for turn, place, at in sorted(turns)[:limit]]
    return [rows[at] for _, _, at in sorted(kept)]


def _masked(text: str, label_set: LabelSet) -> str:
    """A text without what cleaning hides of people; other steps of it could hide what was changed."""
    steps = label_set.cleaning.get("steps") or ()
    return clean_text(text, [step for step in steps if step.startswith("mask_")])


def _example(row: Row, label_set: LabelSet, setting: Setting) -> Example:
    locale, kind, labels = setting.locale, row.get("kind"), label_set.labels
    text, copy = (_masked(row.get(name, ""), label_set) for name in ("text", "altered_text"))
    actual, predicted = row.get("actual"), row.get("predicted")
    answer = label_names(predicted, labels, locale)
    probability = locale.percent(number(row, "probability"), 1)
    if kind == CASES:
        versions = [Version(locale.text("text"), shorten(text, setting.text_length), _answer(answer, locale))]
        facts = [
            (locale.text("case_expected"), _expected(actual, labels, locale)),
            (locale.text("probability_of", name=_watched(row, label_set, locale)), probability),
        ]
        return Example(row.get("test", MISSING), "", versions, facts)
    shown, altered = differences(text, copy, setting.text_length)
    versions = [
        Version(locale.text("message_before"), shown, _answer(answer, locale)),
        Version(
            locale.text("message_after"),
            altered,
            _answer(label_names(row.get("altered_predicted"), labels, locale), locale),
        ),
    ]
    facts = [
        (locale.text("actual"), label_names(actual, labels, locale)),
        (
            locale.text("probability_of", name=_watched(row, label_set, locale)),
            locale.text(
                "from_to", before=probability, after=locale.percent(number(row, "altered_probability"), 1)
            ),
        ),
    ]
    return Example(locale.known("change", row.get("test", MISSING)), row.get("id", MISSING), versions, facts)


def _expected(actual: str | None, labels: Sequence[str], locale: Locale) -> str:
    """The labels that a case expects: all of them, or one of several alternatives."""
    alternatives = (actual or "").split(ALTERNATIVES)
    if len(alternatives) > 1 and set(alternatives) <= set(labels):
        return f" {locale.text('or')} ".join(alternatives)
    return label_names(actual, labels, locale)


def _answer(names: str, locale: Locale) -> str:
    return locale.text("answered", names=names)


def _watched(row: Row, label_set: LabelSet, locale: Locale) -> str:
    """The label that the probability of a failure is about."""
    own = row.get("kind") == DIRECTIONAL
    if label_set.task == "multiclass":
        named = label_names(row.get("actual" if own else "predicted"), label_set.labels, locale)
        return locale.text("quoted", name=named)
    return locale.text("watched_own" if own else "watched_top")


# ---------------------------------------------------------------------------------------- differences


def differences(text: str, copy: str, length: int) -> tuple[Markup, Markup]:
    """A text and its altered copy, each on one line of at most ``length`` characters, what differs marked.

    The part that is shown begins before the first difference. Words are compared, not the spaces between
    them. Where most words differ none is marked.
    """
    words, altered = text.split(), copy.split()
    same = 0
    while same < min(len(words), len(altered)) and words[same] == altered[same]:
        same += 1
    whole = max(len(" ".join(words)), len(" ".join(altered))) <= length
    # Of a text that ends where the other goes on, its last word.
    start = 0 if whole else min(_beginning(words, same, length), max(min(len(words), len(altered)) - 1, 0))
    shown, beside = words[start : start + length], altered[start : start + length]
    left, right = set[int](), set[int]()
    matcher = SequenceMatcher(None, shown, beside, autojunk=False)
    for kind, first, last, other_first, other_last in matcher.get_opcodes():
        if kind != "equal":
            left.update(range(first, last))
            right.update(range(other_first, other_last))
    if 2 * len(right) > len(beside):
        left, right = set(), set()
    return _line(shown, left, start > 0, length), _line(beside, right, start > 0, length)


def _beginning(words: Sequence[str], same: int, length: int) -> int:
    """The word that the shown part begins with: the first, or one shortly before the first difference."""
    if len(" ".join(words[: same + 1])) <= length // 2:
        return 0
    start, room = same, length // 3
    while start and len(words[start - 1]) < room:
        start -= 1
        room -= len(words[start]) + 1
    return start


def _line(words: Sequence[str], marked: set[int], begun: bool, length: int) -> Markup:
    """Words joined by spaces, runs of marked ones in a mark; dots where something is left out."""
    room = length - (2 if begun else 0)
    kept, used = 0, -1
    while kept < len(words) and used + 1 + len(words[kept]) <= room:
        used += 1 + len(words[kept])
        kept += 1
    if kept < len(words):  # room for the dots at the end
        while kept and used > room - 2:
            kept -= 1
            used -= 1 + len(words[kept])
    parts, at = [Markup("… ")] if begun else [], 0
    while at < kept:
        end = at + 1
        while end < kept and (end in marked) == (at in marked):
            end += 1
        run = " ".join(words[at:end])
        parts.append(Markup("<mark>{}</mark>").format(run) if at in marked else Markup("{}").format(run))
        parts.append(Markup(" "))
        at = end
    if kept < len(words):
        parts.append(Markup("{}…").format("" if kept else words[0][: room - 1]))
    return Markup("").join(parts).rstrip()
