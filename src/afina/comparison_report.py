"""A comparison in words and tables: plain text for a terminal, Markdown for a pull request."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from afina.comparison import MOST_CHANGED, POWER, Change, Comparison
from afina.evaluation.metrics import FEW_ROWS

NAMES = {
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "weighted_f1": "weighted F1",
    "accuracy": "accuracy",
    "subset_accuracy": "subset accuracy",
}
MOST_CLASSES = 10  # in the table of what moved
MOST_NAMES = 20  # of labels that came or went
MOST_SMALL = 3  # of small classes that are named

NONE = "none"  # where no drop is large enough to be seen

Row = tuple[str, ...]
Shown = Callable[[str], str]  # how a name is written


def text(comparison: Comparison, base: str, head: str) -> str:
    """The comparison as aligned plain text; its first line is the verdict.

    Args:
        comparison: as `afina.comparison.compare` gives it.
        base: what to call the older model's revision.
        head: what to call the newer one's.
    """
    setting = _setting(comparison, _plain(base), _plain(head))
    parts = [f"{comparison.verdict}: {_finding(comparison)}\n{setting}"]
    for title, rows in _tables(comparison, _plain):
        parts.append("\n".join([*([title] if title else []), *_aligned(rows)]))
    notes = _notes(comparison, _plain)
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def markdown(comparison: Comparison, base: str, head: str) -> str:
    """The same as Markdown, with a chart in Mermaid's language, which GitHub and GitLab draw.

    Names of labels and revisions are code, so that nothing in them is obeyed.
    """
    finding = f"**{comparison.verdict}**: {_finding(comparison)}"
    parts = [finding, _setting(comparison, _code(base), _code(head))]
    for title, rows in _tables(comparison, _code):
        if title:
            parts.append(title)
        rule = ("---", *["---:"] * (len(rows[0]) - 1))
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (rows[0], rule, *rows[1:])]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in cells))
    notes = _notes(comparison, _code)
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    moved = [change for change in comparison.classes if change.base != change.head][:MOST_CLASSES]
    if moved:
        parts.append(_chart(moved))
    return "\n\n".join(parts) + "\n"


def _chart(changes: Sequence[Change]) -> str:
    """F1 of classes as a bar chart: head's as bars, base's as a line."""

    def listed(values: Sequence[str]) -> str:
        return f"[{', '.join(values)}]"

    # A quote ends the name, and "#" begins an entity.
    names = [_plain(change.name).replace('"', "'").replace("#", "") for change in changes]
    return "\n".join(
        [
            "```mermaid",
            "xychart-beta horizontal",
            '    title "F1 of the classes that moved most: head as bars, base as a line"',
            "    x-axis " + listed([f'"{name}"' for name in names]),
            "    y-axis 0 --> 1",
            "    bar " + listed([f"{change.head:.3f}" for change in changes]),
            "    line " + listed([f"{change.base:.3f}" for change in changes]),
            "```",
        ]
    )


def _finding(comparison: Comparison) -> str:
    """What was found, in one line."""
    change, gate, pairing = comparison.gated, comparison.gate, comparison.pairing
    name, rows = NAMES[change.name], f"{pairing.common:,} common test rows"
    scores = f"{name} {change.base:.3f} -> {change.head:.3f}, difference {_signed(change.difference)} "
    scores += _interval(change)
    drop = "no drop" if _detectable(change) == NONE else f"a drop of {change.detectable:.3f} or more"
    seen = f"{drop} would have been seen ({100 * POWER:g} %)"
    match comparison.verdict:
        case "the same predictions":
            return f"{name} {change.head:.3f} on {rows}"
        case "worse":
            return (
                f"{scores} on {rows}; with {_confidence(comparison)} confidence a drop of more than "
                f"{-change.bound:.3f}, where {gate.max_drop:.3f} is tolerated"
            )
        case "better":
            return f"{scores} on {rows}"
        case "too little data":
            return f"{scores} on {rows}; {seen}, {gate.detectable:.3f} is asked for"
        case "data changed":
            return f"{_changed_data(comparison)}; on {rows} {scores}"
    return f"{scores} on {rows}; {seen}"


def _changed_data(comparison: Comparison) -> str:
    pairing = comparison.pairing
    found = [
        f"{_count(len(names), 'label')} {what}"
        for names, what in ((pairing.added, "added"), (pairing.removed, "removed"))
        if names
    ]
    if pairing.changed > MOST_CHANGED:
        found.append(f"{100 * pairing.changed:.0f} % of the base's test rows without a partner")
    return ", ".join(found)


def _setting(comparison: Comparison, base: str, head: str) -> str:
    gate = comparison.gate
    return f"base {base}, head {head}; tolerated drop of {NAMES[gate.metric]}: {gate.max_drop:.3f}"


def _tables(comparison: Comparison, shown: Shown) -> list[tuple[str, list[Row]]]:
    """The metrics, and the classes that moved; each with a title, the first row its header."""
    if comparison.verdict == "the same predictions":
        return []
    interval = f"{_confidence(comparison)} interval"
    header = ("base", "head", "difference", interval, "detectable drop")
    metrics: list[Row] = [("metric", *header)]
    metrics += [(NAMES[change.name], *_cells(change)) for change in comparison.metrics]
    moved = [change for change in comparison.classes if change.base != change.head]
    if not moved:
        return [("", metrics)]
    classes: list[Row] = [("class", "rows", *header)]
    for change in moved[:MOST_CLASSES]:
        rows = f"{change.rows:,}{' (few)' if change.small else ''}"
        classes.append((shown(change.name), rows, *_cells(change)))
    title = "What moved, F1 by class"
    if len(moved) > MOST_CLASSES:
        title += f" (the largest {MOST_CLASSES} changes of {len(moved)})"
    return [("", metrics), (f"{title}:", classes)]


def _cells(change: Change) -> Row:
    return (
        f"{change.base:.3f}",
        f"{change.head:.3f}",
        _signed(change.difference),
        _interval(change),
        _detectable(change),
    )


def _notes(comparison: Comparison, shown: Shown) -> list[str]:
    """What else has to be known to read the tables, a line each."""
    pairing, mcnemar = comparison.pairing, comparison.mcnemar
    notes = []
    if comparison.verdict == "data changed":
        notes.append(
            "Changed data or labels are no regression: what is said of the common rows is information."
        )
    if pairing.changed > MOST_CHANGED and pairing.only_base:
        notes.append(
            "Where messages were added: `afina keep-split --rev BASE` and split.keep leave the known ones in "
            "their split, with the test rows of base among them."
        )
    for names, revision in ((pairing.added, "head"), (pairing.removed, "base")):
        if names:
            notes.append(f"Labels only in {revision}: {_listed(names, shown)}.")
    left_out = [
        f"{count:,} {why}"
        for count, why in (
            (pairing.only_base, "only in base"),
            (pairing.only_head, "only in head"),
            (pairing.relabelled, "with other true labels"),
        )
        if count
    ]
    if left_out:
        notes.append(f"Test rows left out: {', '.join(left_out)}.")
    if comparison.verdict == "the same predictions":
        return notes
    right = "right" if comparison.task == "multiclass" else "wholly right"
    notes.append(
        f"Rows {right} in base alone {mcnemar.base_only:,}, in head alone {mcnemar.head_only:,} "
        f"(McNemar p {_probability(mcnemar.p_value)})."
    )
    notes += _class_notes(comparison, shown)
    return notes


def _class_notes(comparison: Comparison, shown: Shown) -> list[str]:
    notes = []
    few = sorted((change for change in comparison.classes if change.small), key=lambda change: change.rows)
    absent = [change.name for change in few if not change.rows]
    few = few[len(absent) :]
    if absent:
        notes.append(f"Without a common test row, counted 0 on both sides: {_listed(absent, shown)}.")
    if few:
        named = [
            f"{shown(change.name)} ({_count(change.rows, 'row')}, {_alone(change)})"
            for change in few[:MOST_SMALL]
        ]
        more = f" and {len(few) - MOST_SMALL} more" if len(few) > MOST_SMALL else ""
        notes.append(
            f"Fewer than {FEW_ROWS} test rows, too few to gate anything alone: {', '.join(named)}{more}."
        )
    if any(change.base != change.head for change in comparison.classes):
        chance = comparison.gate.alpha * len(comparison.classes)
        notes.append(
            f"Each class's interval is of that class alone: of {len(comparison.classes)}, {chance:.1f} miss "
            "the true difference by chance."
        )
    return notes


def _alone(change: Change) -> str:
    drop = _detectable(change)
    return "no drop would be seen" if drop == NONE else f"only a drop of {drop} or more would be seen"


# -------------------------------------------------------------------------------------------- numbers


def _detectable(change: Change) -> str:
    """The detectable drop; none where it is more than the score that could be lost."""
    return NONE if change.detectable > change.base else f"{change.detectable:.3f}"


def _signed(value: float) -> str:
    rounded = round(value, 3)
    return f"{rounded:+.3f}" if rounded else "0.000"


def _interval(change: Change) -> str:
    return f"[{_signed(change.low)}, {_signed(change.high)}]"


def _confidence(comparison: Comparison) -> str:
    return f"{100 * (1 - comparison.gate.alpha):g} %"


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# ---------------------------------------------------------------------------------------------- names


def _listed(names: Sequence[str], shown: Shown) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(shown, names[:MOST_NAMES])) + more


def _plain(name: str) -> str:
    """A name on one line, without what a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())


def _code(name: str) -> str:
    """A name as Markdown code; a cell of a table needs its bars escaped, and a sentence would show that."""
    name = _plain(name)
    runs = [len(run) for run in re.findall("`+", name)]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if runs else ""
    return f"{fence}{space}{name}{space}{fence}"


def _aligned(rows: Sequence[Row]) -> list[str]:
    """Rows as columns of equal width: the first to the left, numbers to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
