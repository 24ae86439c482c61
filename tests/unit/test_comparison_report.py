"""A comparison in words: the first line, the tables and the notes, as text and as Markdown."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from afina.comparison import Change, Comparison, Gate, McNemar, Pairing, Verdict
from afina.comparison_report import markdown, text


def change(name: str, rows: int, base: float, head: float, detectable: float = 0.03) -> Change:
    """A difference with an interval of 0.02 to each side."""
    difference = head - base
    return Change(
        name, rows, base, head, difference - 0.02, difference + 0.02, difference + 0.017, detectable
    )


METRICS = (
    change("macro_f1", 536, 0.843, 0.839),
    change("accuracy", 536, 0.85, 0.84, 0.025),
    change("weighted_f1", 536, 0.851, 0.851),
)
CLASSES = (
    change("salud: reembolsos", 12, 0.7, 0.5, 0.535),
    change("pensiones", 300, 0.9, 0.91, 0.04),
    change("empleo", 224, 0.8, 0.8, 0.05),
)
COMPARISON = Comparison(
    verdict="no evidence",
    task="multiclass",
    gate=Gate(),
    pairing=Pairing(536, 0, 0, 0, (), ()),
    metrics=METRICS,
    classes=CLASSES,
    mcnemar=McNemar(12, 15, 0.5637),
)


def first_line(verdict: Verdict, **changes: object) -> str:
    comparison = replace(COMPARISON, verdict=verdict, **changes)  # type: ignore[arg-type]
    line = text(comparison, "main", "workspace").splitlines()[0]
    name, _, finding = line.partition(": ")
    assert markdown(comparison, "main", "workspace").splitlines()[0] == f"**{name}**: {finding}"
    return line


def test_the_whole_text() -> None:
    assert text(COMPARISON, "main", "workspace") == (
        "no evidence: macro-F1 0.843 -> 0.839, difference -0.004 [-0.024, +0.016] on 536 common test rows; "
        "a drop of 0.030 or more would have been seen (80 %)\n"
        "base main, head workspace; tolerated drop of macro-F1: 0.010\n"
        "\n"
        "metric        base   head  difference     95 % interval  detectable drop\n"
        "macro-F1     0.843  0.839      -0.004  [-0.024, +0.016]            0.030\n"
        "accuracy     0.850  0.840      -0.010  [-0.030, +0.010]            0.025\n"
        "weighted F1  0.851  0.851       0.000  [-0.020, +0.020]            0.030\n"
        "\n"
        "What moved, F1 by class:\n"
        "class                  rows   base   head  difference     95 % interval  detectable drop\n"
        "salud: reembolsos  12 (few)  0.700  0.500      -0.200  [-0.220, -0.180]            0.535\n"
        "pensiones               300  0.900  0.910      +0.010  [-0.010, +0.030]            0.040\n"
        "\n"
        "Rows right in base alone 12, in head alone 15 (McNemar p = 0.564).\n"
        "Fewer than 30 test rows, too few to gate anything alone: salud: reembolsos (12 rows, only a drop of "
        "0.535 or more would be seen).\n"
        "Each class's interval is of that class alone: of 3, 0.2 miss the true difference by chance.\n"
    )


def test_the_whole_markdown() -> None:
    assert markdown(COMPARISON, "main", "workspace") == (
        "**no evidence**: macro-F1 0.843 -> 0.839, difference -0.004 [-0.024, +0.016] on 536 common test "
        "rows; a drop of 0.030 or more would have been seen (80 %)\n"
        "\n"
        "base `main`, head `workspace`; tolerated drop of macro-F1: 0.010\n"
        "\n"
        "| metric | base | head | difference | 95 % interval | detectable drop |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| macro-F1 | 0.843 | 0.839 | -0.004 | [-0.024, +0.016] | 0.030 |\n"
        "| accuracy | 0.850 | 0.840 | -0.010 | [-0.030, +0.010] | 0.025 |\n"
        "| weighted F1 | 0.851 | 0.851 | 0.000 | [-0.020, +0.020] | 0.030 |\n"
        "\n"
        "What moved, F1 by class:\n"
        "\n"
        "| class | rows | base | head | difference | 95 % interval | detectable drop |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| `salud: reembolsos` | 12 (few) | 0.700 | 0.500 | -0.200 | [-0.220, -0.180] | 0.535 |\n"
        "| `pensiones` | 300 | 0.900 | 0.910 | +0.010 | [-0.010, +0.030] | 0.040 |\n"
        "\n"
        "- Rows right in base alone 12, in head alone 15 (McNemar p = 0.564).\n"
        "- Fewer than 30 test rows, too few to gate anything alone: `salud: reembolsos` (12 rows, only a "
        "drop of 0.535 or more would be seen).\n"
        "- Each class's interval is of that class alone: of 3, 0.2 miss the true difference by chance.\n"
        "\n"
        "```mermaid\n"
        "xychart-beta horizontal\n"
        '    title "F1 of the classes that moved most: head as bars, base as a line"\n'
        '    x-axis ["salud: reembolsos", "pensiones"]\n'
        "    y-axis 0 --> 1\n"
        "    bar [0.500, 0.910]\n"
        "    line [0.700, 0.900]\n"
        "```\n"
    )


def test_the_first_line_of_each_verdict() -> None:
    assert first_line("worse", metrics=(change("macro_f1", 536, 0.843, 0.79),)) == (
        "worse: macro-F1 0.843 -> 0.790, difference -0.053 [-0.073, -0.033] on 536 common test rows; with "
        "95 % confidence a drop of more than 0.036, where 0.010 is tolerated"
    )
    assert first_line("better", metrics=(change("macro_f1", 536, 0.79, 0.843),)) == (
        "better: macro-F1 0.790 -> 0.843, difference +0.053 [+0.033, +0.073] on 536 common test rows"
    )
    assert first_line("too little data", metrics=(change("macro_f1", 1_536, 0.8, 0.8, 0.081),)).endswith(
        "; a drop of 0.081 or more would have been seen (80 %), 0.050 is asked for"
    )
    for detectable in (0.81, math.inf):
        line = first_line("too little data", metrics=(change("macro_f1", 4, 0.8, 0.8, detectable),))
        assert line.endswith("; no drop would have been seen (80 %), 0.050 is asked for")
    assert first_line("the same predictions") == (
        "the same predictions: macro-F1 0.839 on 536 common test rows"
    )
    pairing = Pairing(480, 56, 4, 0, ("new",), ("x", "y"))
    assert first_line("data changed", pairing=pairing) == (
        "data changed: 1 label added, 2 labels removed, 10 % of the base's test rows without a partner; on "
        "480 common test rows macro-F1 0.843 -> 0.839, difference -0.004 [-0.024, +0.016]"
    )
    only = Pairing(480, 4, 3, 1, (), ("x",))
    assert first_line("data changed", pairing=only).startswith("data changed: 1 label removed; on 480 ")


def test_what_was_left_out_is_said() -> None:
    pairing = Pairing(1_480, 3, 0, 2, ("new", "newer"), ("old",))
    shown = text(replace(COMPARISON, verdict="data changed", pairing=pairing), "a", "b")
    assert "\nChanged data or labels are no regression: " in shown
    assert "\nLabels only in head: new, newer.\nLabels only in base: old.\n" in shown
    assert "\nTest rows left out: 3 only in base, 2 with other true labels.\n" in shown
    assert "keep-split" not in shown  # nearly all rows are common: the labels are what has changed


def test_where_few_rows_are_common_it_is_said_how_to_keep_them() -> None:
    pairing = Pairing(80, 400, 420, 0, (), ())
    shown = text(replace(COMPARISON, verdict="data changed", pairing=pairing), "a", "b")
    assert "\nWhere messages were added: `afina keep-split --rev BASE` and split.keep leave " in shown
    only_more = text(replace(COMPARISON, pairing=Pairing(400, 0, 80, 0, (), ())), "a", "b")
    assert "keep-split" not in only_more


def test_the_same_predictions_need_no_table() -> None:
    comparison = replace(COMPARISON, verdict="the same predictions", pairing=Pairing(536, 0, 2, 0, (), ()))
    assert text(comparison, "a", "b") == (
        "the same predictions: macro-F1 0.839 on 536 common test rows\n"
        "base a, head b; tolerated drop of macro-F1: 0.010\n"
        "\n"
        "Test rows left out: 2 only in head.\n"
    )
    assert "|" not in markdown(comparison, "a", "b")


def test_only_the_largest_changes_are_listed() -> None:
    classes = tuple(change(f"class {at:02d}", 100, 0.9, 0.9 - (20 - at) / 100) for at in range(12))
    for shown in (
        text(replace(COMPARISON, classes=classes), "a", "b"),
        markdown(replace(COMPARISON, classes=classes), "a", "b"),
    ):
        assert "What moved, F1 by class (the largest 10 changes of 12):" in shown
        assert "class 09" in shown
        assert "class 10" not in shown
        assert "Fewer than" not in shown


def test_classes_with_few_rows_or_none() -> None:
    classes = tuple(change(f"c{rows}", rows, 0.4, 0.5, detectable=9 / (rows + 1)) for rows in range(6))
    shown = text(replace(COMPARISON, classes=classes), "a", "b")
    assert "\nWithout a common test row, counted 0 on both sides: c0.\n" in shown
    assert (
        "alone: c1 (1 row, no drop would be seen), c2 (2 rows, no drop would be seen), c3 (3 rows, no drop "
        "would be seen) and 2 more.\n"
    ) in shown
    row = next(line for line in shown.splitlines() if line.startswith("c5 "))
    assert row.split()[1:3] == ["5", "(few)"]
    assert row.endswith(" none")


@pytest.mark.parametrize(
    ("name", "plain", "code"),
    [
        ("a|b", "a|b", "`a\\|b`"),
        ("back`tick", "back`tick", "`` back`tick ``"),
        ("two\nlines\x1b[2J", "two lines [2J", "`two lines [2J`"),
        ("<b>@all *x*", "<b>@all *x*", "`<b>@all *x*`"),
    ],
)
def test_nothing_in_a_name_is_obeyed(name: str, plain: str, code: str) -> None:
    comparison = replace(COMPARISON, classes=(change(name, 100, 0.5, 0.6),))
    assert f"\n{plain} " in text(comparison, "a", "b")
    table = markdown(comparison, name, "b")
    assert f"\n| {code} | 100 |" in table
    sentence = code.replace("\\|", "|")  # where a backslash in code is shown
    assert f"\nbase {sentence}, head `b`;" in table


def test_multilabel_says_wholly_right() -> None:
    comparison = replace(COMPARISON, task="multilabel", mcnemar=McNemar(1_200, 15, 1e-9))
    assert "Rows wholly right in base alone 1,200, in head alone 15 (McNemar p < 0.001)." in text(
        comparison, "a", "b"
    )
