"""Writes the demo data set: two invented message systems with different columns and label names.

The sentences come from the hand-written grammar in grammar/*.yaml; everything random comes from one
seed, so every run writes the same bytes. All people, places, numbers and addresses are invented.
"""

from __future__ import annotations

import argparse
import csv
import html
import io
import json
import random
import re
import statistics
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from openpyxl import Workbook

HERE = Path(__file__).parent
SEED = 2025
OLD_PERIOD = (date(2020, 1, 2), date(2024, 12, 30))
NEW_PERIOD = (date(2025, 1, 2), date(2026, 6, 29))
FIXED_TIME = datetime(2025, 1, 1)
FILES = ("sistema_2020.xlsx", "sistema_2025.jsonl", "label_map.csv", "truth.csv")

# How often things go wrong, as a share of the rows.
NO_TOPIC, FAMILY_ONLY, HINTS_ONLY = 0.04, 0.09, 0.10  # how little a message says
SECOND_TOPIC, ASIDE = 0.17, 0.18  # what else it says
WRONG_LABELS, EMPTY_TEXTS, COPIES, NEAR_COPIES = 0.05, 0.008, 0.025, 0.03
OBSOLETE_CHATTER = 0.45
CONFUSED = ("pensiones: retraso de pago", "pensiones: solicitud", "pensiones: monto incorrecto")
CONFUSED_SHARE = 0.75  # of the wrong labels
OBSOLETE, UNLABELLED = "obsoleto", "vacio"

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
PROTECTED = re.compile(r"\S*@\S*|<[^>]*>|&\w+;")
TAG = re.compile(r"<[^>]+>")
REGIONS = ("Norte", "Costa", "Centro", "Valle", "Sur", "Islas")
DOMAINS = ("example.org", "ejemplo.test", "correo.example.com")
CHANNELS = {"web": 60, "presencial": 15, "telefono": 12, "Web": 6, "correo": 7}
TYPOS = (
    ("que ", "q "), ("por favor", "xfavor"), ("h", ""), ("v", "b"), ("b", "v"), ("ll", "y"), ("z", "s"),
    ("ción", "sion"), ("cion", "sion"), ("qui", "ki"), ("también", "tanbien"), ("porque", "xq"), ("s ", " "),
    ("hay ", "ahi "), ("ce", "se"), ("mp", "np"), ("gue", "ge"), ("n", "nn"), ("r", ""), ("a ", "a a "),
)  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """The sentences of one label; context and shared ones fit all the labels of its family."""

    label: str
    family: str
    facts: Sequence[str]
    details: Sequence[str]
    asks: Sequence[str]
    mentions: Sequence[str]
    context: Sequence[str]
    shared: Sequence[str]


@dataclass(frozen=True)
class Names:
    """How many rows a label has, and the names it goes by in the old and in the new system."""

    rows: int
    old_share: float
    old: dict[str, int]
    new: dict[int, dict[str, int]]


@dataclass(frozen=True)
class Grammar:
    topics: dict[str, Topic]
    general: dict[str, Sequence[str]]
    slots: dict[str, Sequence[str]]


@dataclass(frozen=True)
class Row:
    """One message. `label` is what its text is about, `given` what the system says."""

    label: str
    given: str
    old: bool
    text: str = ""
    id: str = ""
    day: date = date.min
    name: str = ""
    category: int = 0


# --- the grammar -------------------------------------------------------------------------------------


def lines(block: str | None) -> list[str]:
    return [line.strip() for line in (block or "").splitlines() if line.strip()]


def read_topics(path: Path) -> Iterator[Topic]:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    common = data["comun"]
    for label, parts in data["temas"].items():
        facts, details, asks, mentions = (lines(parts[k]) for k in ("caso", "detalle", "pide", "mencion"))
        context, shared = lines(common["contexto"]), lines(common["detalle"])
        yield Topic(label, path.stem, facts, details, asks, mentions, context, shared)


def read_grammar(folder: Path = HERE / "grammar") -> Grammar:
    general = yaml.safe_load((folder / "general.yaml").read_text(encoding="utf-8"))
    slots = {name: lines(block) for name, block in general.pop("huecos").items()}
    families = [p for p in sorted(folder.glob("*.yaml")) if p.stem not in ("general", "catalogo")]
    topics = {topic.label: topic for path in families for topic in read_topics(path)}
    return Grammar(topics, {name: lines(block) for name, block in general.items()}, slots)


def read_names(folder: Path = HERE / "grammar") -> dict[str, Names]:
    data = yaml.safe_load((folder / "catalogo.yaml").read_text(encoding="utf-8"))
    entries = {**data["etiquetas"], OBSOLETE: data["obsoleto"], UNLABELLED: data["vacio"]}
    return {k: Names(e["rows"], e["antiguo"], e["viejos"], e["nuevos"]) for k, e in entries.items()}


# --- sentences and messages --------------------------------------------------------------------------


class Writer:
    """Turns grammar lines into text with the random numbers of `rng`."""

    def __init__(self, grammar: Grammar, rng: random.Random) -> None:
        self.grammar = grammar
        self.rng = rng
        self.used: set[str] = set()  # lines of the message being written
        self.numbers: dict[str, Callable[[], str]] = {
            "n": lambda: str(rng.randint(2, 9)),
            "nn": lambda: str(rng.randint(10, 60)),
            "edad": lambda: str(rng.randint(55, 84)),
            "anio": lambda: str(rng.randint(1998, 2024)),
            "dia_n": lambda: str(rng.randint(1, 28)),
            "dia": lambda: self.expand("{dia_n} de {mes}"),
            "fecha": lambda: f"{rng.randint(1, 28)}/{rng.randint(1, 12)}/{rng.randint(1950, 2024)}",
            "nota": lambda: f"{rng.randint(5, 9)},{rng.randint(0, 9)}",
            "monto": lambda: f"{rng.choice(['$', '$ ', ''])}{rng.randint(12, 640)}.{rng.randint(0, 9)}00",
            "folio": lambda: f"{rng.choice(['', 'R-', 'N°'])}{rng.randint(10000, 999999)}",
            "id": lambda: f"{rng.randint(5, 24)}.{self.three()}.{self.three()}-{rng.randint(0, 9)}",
            "tel": lambda: f"{rng.choice(['', '+00 '])}9{rng.randint(10, 99)} 555 {self.three()}",
            "correo": lambda: self.address(self.expand("{nombre}")),
        }

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def three(self) -> str:
        return str(self.rng.randint(100, 999))

    def address(self, name: str) -> str:
        first, *_, last = strip_accents(name).replace("ñ", "n").lower().split()
        return f"{first}.{last}{self.rng.randint(1, 99)}@{self.rng.choice(DOMAINS)}"

    def slot(self, name: str) -> str:
        return self.numbers[name]() if name in self.numbers else self.rng.choice(self.grammar.slots[name])

    def expand(self, template: str, **given: str) -> str:
        """Resolves [a|b] from the inside out, then {slots}, which may hold choices themselves."""
        text = template
        while CHOICE.search(text) or SLOT.search(text):
            text = CHOICE.sub(lambda m: self.rng.choice(m[1].split("|")), text)
            text = SLOT.sub(lambda m: given.get(m[1]) or self.slot(m[1]), text)
        text = re.sub(r"\b(de|a) el\b", lambda m: "del" if m[1] == "de" else "al", text)
        return re.sub(r" +([,.;?])", r"\1", re.sub(r" {2,}", " ", text)).strip()

    def sentence(self, template: str, **given: str) -> str:
        text = self.expand(template, **given)
        text = text if text[-1] in ".?!" else text + "."
        first = re.search(r"[^\W\d_]", text)
        return text if first is None else text[: first.start()] + first[0].upper() + text[first.end() :]

    def pick(self, templates: Sequence[str], count: int = 1, **given: str) -> list[str]:
        fresh = [template for template in templates if template not in self.used] or templates
        chosen = self.rng.sample(fresh, min(count, len(fresh)))
        self.used.update(chosen)
        return [self.sentence(template, **given) for template in chosen]

    def general(self, part: str, count: int = 1) -> list[str]:
        return self.pick(self.grammar.general[part], count)

    def neighbour(self, topic: Topic) -> Topic:
        """Another label, usually of the same family."""
        others = [t for t in self.grammar.topics.values() if t.label != topic.label]
        family = [t for t in others if t.family == topic.family]
        return self.rng.choice(family if family and self.chance(0.75) else others)

    def body(self, topic: Topic) -> list[str]:
        """The sentences that carry the topic: from all there is to say to nothing but the family."""
        draw = self.rng.random()
        if draw < NO_TOPIC:
            return self.general("vago", self.rng.randint(1, 2))
        if draw < NO_TOPIC + FAMILY_ONLY:
            return self.pick(topic.context) + self.pick(topic.shared) + self.general("vago")
        if draw < NO_TOPIC + FAMILY_ONLY + HINTS_ONLY:
            return self.pick(topic.context) + self.pick(topic.details) + self.pick(topic.asks)
        return self.full_body(topic)

    def full_body(self, topic: Topic) -> list[str]:
        parts = self.pick(topic.facts)
        if self.chance(0.35):
            parts.insert(0, self.pick(topic.context)[0])
        if self.chance(0.12):
            parts += self.pick(topic.facts)
        if self.chance(0.48):
            parts += self.pick(topic.details)
        if self.chance(0.52):
            parts += self.pick(topic.shared)
        if self.chance(ASIDE):
            parts.insert(self.rng.randint(0, len(parts)), self.aside(topic))
        if self.chance(SECOND_TOPIC):
            parts.insert(self.rng.randint(1, len(parts)), self.pick(self.neighbour(topic).facts)[0])
        if self.chance(0.3):
            parts += self.pick(topic.asks)
        return parts

    def aside(self, topic: Topic) -> str:
        """A sentence that names another label only to say that it is not the matter."""
        other = self.expand(self.rng.choice(self.neighbour(topic).mentions))
        return self.pick(self.grammar.general["aparte"], otro=other)[0]

    def message(self, topic: Topic) -> str:
        self.used.clear()
        size = self.rng.random()
        parts = self.body(topic)
        if size < 0.16:
            return self.rng.choice(parts) if size < 0.03 else self.flow(parts[:2])
        if self.chance(0.8):
            parts.insert(self.rng.randint(0, len(parts)), self.general("relleno")[0])
        if self.chance(0.32):
            parts.insert(0, self.general("apertura")[0])
        if self.chance(0.42):
            parts += self.general("pide")
        if size > 0.86:
            shortest, longest = (60, 110) if size < 0.97 else (150, 300)
            parts += self.story(topic, self.rng.randint(shortest, longest))
        return self.letter(parts)

    def story(self, topic: Topic, words: int) -> list[str]:
        """Sentences that go on and on, up to a number of words."""
        pool = [*self.grammar.general["relleno"], *topic.shared, *topic.context, *topic.details]
        pool += [*self.grammar.general["pide"], *self.neighbour(topic).shared]
        pool = [template for template in pool if template not in self.used]
        parts: list[str] = []
        for template in self.rng.sample(pool, len(pool)):
            if len(" ".join(parts).split()) < words:
                parts.append(self.sentence(template))
        return parts

    def chatter(self) -> str:
        self.used.clear()
        parts = self.general("charla", self.rng.choice([1, 1, 1, 2]))
        if self.chance(0.5):
            return " ".join(parts)
        if self.chance(0.6):
            parts += self.general("relleno", self.rng.randint(1, 3))
        return self.letter(parts)

    def flow(self, parts: Sequence[str]) -> str:
        """One paragraph; some sentences run on into the next, as when people write as they speak."""
        text = parts[0]
        for part in parts[1:]:
            if text[-1] == "." and part[0] not in "¿¡" and self.chance(0.3):
                text = text[:-1] + self.rng.choice(self.grammar.general["union"]) + " " + uncapitalised(part)
            else:
                text += " " + part
        return text

    def letter(self, parts: Sequence[str]) -> str:
        """Greeting, paragraphs, farewell, signature and, at times, the reply it answers."""
        blocks = [self.flow(parts)]
        if len(parts) > 3 and self.chance(0.4):
            half = len(parts) // 2
            blocks = [self.flow(parts[:half]), self.flow(parts[half:])]
        if self.chance(0.7):
            greeting = self.expand(self.rng.choice(self.grammar.general["saludo"]))
            mark = self.rng.choice([", ", ". ", ": ", "\n", " "])
            blocks[0] = greeting + mark + (uncapitalised(blocks[0]) if mark == ", " else blocks[0])
        if self.chance(0.6):
            blocks.append(self.expand(self.rng.choice(self.grammar.general["despedida"])))
        if self.chance(0.42):
            name = self.expand("{nombre}")
            signature = self.rng.choice(self.grammar.general["firma"])
            blocks.append(self.expand(signature, nombre=name, correo=self.address(name)))
        if self.chance(0.08):
            blocks.append(self.quoted())
        return "\n".join(blocks)

    def quoted(self) -> str:
        head = self.expand(self.rng.choice(self.grammar.general["cita"]))
        said = self.general("cita_texto", self.rng.randint(2, 4))
        return "\n".join(["", head, *(f"> {line}" for line in said)])


# --- what happens to text on its way through a form ---------------------------------------------------


def strip_accents(text: str) -> str:
    """á becomes a; ñ stays."""
    keep = text.replace("ñ", "\0").replace("Ñ", "\1")
    plain = "".join(c for c in unicodedata.normalize("NFD", keep) if not unicodedata.combining(c))
    return plain.replace("\0", "ñ").replace("\1", "Ñ")


def uncapitalised(text: str) -> str:
    return text[0].lower() + text[1:]


def misspell(text: str, rng: random.Random) -> str:
    """A few slips of the hand, but none in an address or a tag."""
    for _ in range(rng.randint(1, 5)):
        source, target = rng.choice(TYPOS)
        spans = [m.span() for m in PROTECTED.finditer(text)]
        spots = [m.start() for m in re.finditer(source, text)]
        spots = [at for at in spots if not any(start <= at < end for start, end in spans)]
        if spots:
            at = rng.choice(spots)
            text = text[:at] + target + text[at + len(source) :]
    return text


def as_html(text: str, rng: random.Random) -> str:
    """Paragraphs, breaks and entities, as a rich-text form would store them."""
    body = html.escape(text, quote=False)
    if rng.random() < 0.45:
        body = "".join(html_entity(c) for c in body)
    if rng.random() < 0.4:
        body = re.sub(r" (?=\w)", lambda m: "&nbsp;" if rng.random() < 0.06 else m[0], body)
    if rng.random() < 0.5:
        return "".join(f"<p>{part}</p>" for part in body.split("\n") if part)
    return body.replace("\n", rng.choice(["<br>", "<br/>", "<br />\n"]))


def html_entity(char: str) -> str:
    return f"&{html.entities.codepoint2name[ord(char)]};" if char in "áéíóúñÁÉÍÓÚÑ¿¡" else char


def mojibake(text: str) -> str:
    return text.encode("utf-8").decode("latin-1")


def dirty(text: str, rng: random.Random, html_share: float) -> str:
    """Typing habits first, then what the forms and the export did to the text."""
    if rng.random() < 0.6:
        text = text.replace("¿", "").replace("¡", "")
    if rng.random() < 0.2:
        text = strip_accents(text)
    if rng.random() < 0.25:
        text = misspell(text, rng)
    if rng.random() < 0.12:
        text = text.lower()
    elif rng.random() < 0.04:
        text = text.upper()
    if rng.random() < 0.04:
        text += " " + rng.choice(["🙏", "😡", "😢", "🙏🙏", "👍", "😊"])
    if rng.random() < html_share:
        text = as_html(text, rng)
    return mojibake(text) if rng.random() < 0.02 else text


def near_copy(text: str, rng: random.Random) -> str:
    """The same message sent again: another greeting or ending, a changed figure, one more typo."""
    changed = re.sub(r"\d(?=\d)", lambda m: str(rng.randint(1, 9)) if rng.random() < 0.4 else m[0], text)
    ends = ["", " Gracias", " reitero mi consulta", "\nsegundo envío", " Saludos."]
    starts = ["", "Hola. ", "Reitero: ", "Buenas tardes, "]
    return rng.choice(starts) + misspell(changed, rng) + rng.choice(ends)


# --- rows ----------------------------------------------------------------------------------------------


def plan(names: dict[str, Names], rng: random.Random) -> list[Row]:
    """As many rows as the catalogue asks for, in random order."""
    rows = []
    for label, entry in names.items():
        old = round(entry.rows * entry.old_share)
        rows += [Row(label, label, i < old) for i in range(entry.rows)]
    rng.shuffle(rows)
    return rows


def write_texts(rows: Sequence[Row], writer: Writer, names: dict[str, Names]) -> list[Row]:
    rng = writer.rng
    labels = list(writer.grammar.topics)
    weights = [names[label].rows for label in labels]
    written: dict[str, list[str]] = {}
    done = []
    for row in rows:
        earlier = written.setdefault(row.label, [])
        topic = writer.grammar.topics.get(row.label)
        if topic is None:  # obsolete or unlabelled: about anything
            topic = writer.grammar.topics[rng.choices(labels, weights)[0]]
        text = write_text(row, topic, earlier, writer)
        earlier.append(text)
        done.append(replace(row, text=text))
    return done


def write_text(row: Row, topic: Topic, earlier: Sequence[str], writer: Writer) -> str:
    rng = writer.rng
    draw = rng.random()
    if draw < EMPTY_TEXTS:
        return rng.choice(["", "", "   ", "<p>&nbsp;</p>", "<br>"])
    copied = rng.choice(earlier) if earlier else ""
    if copied.strip() and draw < EMPTY_TEXTS + COPIES:
        return copied
    if len(copied.split()) > 8 and draw < EMPTY_TEXTS + COPIES + NEAR_COPIES:
        return near_copy(copied, rng)
    chatty = row.label == OBSOLETE and writer.chance(OBSOLETE_CHATTER)
    text = writer.chatter() if chatty else writer.message(topic)
    while len(text.split()) < 3:
        text = writer.message(topic)
    return dirty(text, rng, 0.1 if row.old else 0.2)


def mislabel(rows: Sequence[Row], grammar: Grammar, names: dict[str, Names], rng: random.Random) -> list[Row]:
    """Gives a share of the rows another label of their family, mostly among the confused ones."""
    real = [i for i, row in enumerate(rows) if row.label in grammar.topics]
    confused = [i for i in real if rows[i].label in CONFUSED]
    rest = [i for i in real if rows[i].label not in {*CONFUSED, "agradecimientos"}]  # has no siblings
    count = round(len(real) * WRONG_LABELS)
    chosen = rng.sample(confused, round(count * CONFUSED_SHARE))
    chosen += rng.sample(rest, count - len(chosen))
    out = list(rows)
    for i in chosen:
        topic = grammar.topics[rows[i].label]
        siblings = [t.label for t in grammar.topics.values() if t.family == topic.family and t != topic]
        sizes = [names[label].rows for label in siblings]  # people fall back on the label they use most
        out[i] = replace(rows[i], given=rng.choices(siblings, sizes)[0])
    return out


def name_rows(rows: Sequence[Row], names: dict[str, Names], rng: random.Random) -> list[Row]:
    """Picks the raw name the row's system used; every name is used at least once."""
    pools: dict[tuple[str, bool], list[tuple[int, str]]] = {}
    named = []
    for row in rows:
        entry = names[row.given]
        systems = {0: entry.old} if row.old else entry.new
        options = [(number, name, weight) for number, v in systems.items() for name, weight in v.items()]
        unused = pools.setdefault((row.given, row.old), [(number, name) for number, name, _ in options])
        drawn = rng.choices(options, [weight for _, _, weight in options])[0]
        number, name = unused.pop() if unused else drawn[:2]
        named.append(replace(row, name=name, category=number))
    return named


def date_rows(rows: Sequence[Row], rng: random.Random) -> list[Row]:
    """Dates within the system's years, and numbers in the order of arrival."""

    def day(period: tuple[date, date]) -> date:
        return period[0] + timedelta(days=rng.randrange((period[1] - period[0]).days + 1))

    dated = [replace(row, day=day(OLD_PERIOD if row.old else NEW_PERIOD)) for row in rows]
    dated.sort(key=lambda row: row.day)
    old, new = [row for row in dated if row.old], [row for row in dated if not row.old]
    old = [replace(row, id=str(10001 + 3 * i)) for i, row in enumerate(old)]
    return old + [replace(row, id=f"M{row.day:%y}-{i:05d}") for i, row in enumerate(new, 1)]


def build(seed: int = SEED) -> tuple[list[Row], dict[str, Names], Writer]:
    rng = random.Random(seed)
    writer, names = Writer(read_grammar(), rng), read_names()
    rows = write_texts(plan(names, rng), writer, names)
    rows = date_rows(name_rows(mislabel(rows, writer.grammar, names, rng), names, rng), rng)
    return rows, names, writer


# --- files ---------------------------------------------------------------------------------------------


def write_xlsx(path: Path, rows: Sequence[Row], rng: random.Random) -> None:
    book = Workbook()
    book.properties.creator = "demo"
    book.properties.created = FIXED_TIME
    sheet = book.active
    sheet.title = "mensajes"
    sheet.append(["correlativo", "fecha", "canal", "asunto", "comunicacion"])
    for number, row in enumerate(rows, 2):
        channel = rng.choices(list(CHANNELS), list(CHANNELS.values()))[0]
        sheet.append([int(row.id), row.day, channel, row.name or None, row.text or None])
        sheet.cell(number, 5).data_type = "s"  # even if the text starts with "="
    buffer = io.BytesIO()
    book.save(buffer)
    path.write_bytes(without_clock(buffer.getvalue()))


def without_clock(content: bytes) -> bytes:
    """The same zip with fixed times, inside and out, so that equal rows give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in sorted(old.namelist()):
            data = old.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", FIXED_TIME.isoformat().encode() + b"Z", data)
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            new.writestr(info, data, zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()


def json_line(row: Row, writer: Writer) -> str:
    rng = writer.rng
    sent = datetime(row.day.year, row.day.month, row.day.day, rng.randint(7, 22), rng.randint(0, 59))
    messages = [{"body": row.text, "date": sent.isoformat()}]
    if rng.random() < 0.12:
        answer = " ".join(writer.general("cita_texto", 2))
        messages.append({"body": answer, "date": (sent + timedelta(days=rng.randint(1, 20))).isoformat()})
    record = {
        "code": row.id,
        "category": [row.category, row.name],
        "messages": messages,
        "created_at": row.day.isoformat(),
        "region": rng.choice(REGIONS),
    }
    return json.dumps(record, ensure_ascii=False)


def label_map(names: dict[str, Names]) -> list[tuple[str, str, str]]:
    """raw name, label ("" drops the row), note; as somebody would keep it in a spreadsheet."""
    table: dict[str, tuple[str, set[str]]] = {}
    for label, entry in names.items():
        final = "" if label in (OBSOLETE, UNLABELLED) else label
        for system, groups in (("2020", [entry.old]), ("2025", list(entry.new.values()))):
            for name in (name for group in groups for name in group):
                table.setdefault(name, (final, set()))[1].add(system)
    notes = {"OTROS / NO CLASIFICADO": "obsoleta: se usaba para todo", "": "sin etiqueta"}
    return [(raw, label, notes.get(raw, " y ".join(sorted(s)))) for raw, (label, s) in table.items()]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_all(out: Path) -> None:
    rows, names, writer = build()
    out.mkdir(parents=True, exist_ok=True)
    old, new = [r for r in rows if r.old], [r for r in rows if not r.old]
    write_xlsx(out / FILES[0], old, writer.rng)
    body = "".join(json_line(row, writer) + "\n" for row in new)
    (out / FILES[1]).write_text(body, encoding="utf-8", newline="\n")
    write_csv(out / FILES[2], ("raw", "label", "nota"), label_map(names))
    write_csv(out / FILES[3], ("id", "label"), [(r.id, r.label) for r in rows if r.given != r.label])


# --- statistics ----------------------------------------------------------------------------------------


def word_count(text: str) -> int:
    return len(html.unescape(TAG.sub(" ", text)).split())


def stats(rows: Sequence[Row]) -> dict[str, Any]:
    kept = Counter(row.given for row in rows if row.given not in (OBSOLETE, UNLABELLED))
    top = kept.most_common(15)
    wrong = sum(row.given != row.label for row in rows)
    words = sorted(n for row in rows if (n := word_count(row.text)))
    return {
        "rows": len(rows),
        "rows 2020 / 2025": f"{sum(r.old for r in rows)} / {sum(not r.old for r in rows)}",
        "raw names": len({row.name for row in rows}),
        "labels": len(kept),
        "obsolete share": round(sum(r.given == OBSOLETE for r in rows) / len(rows), 3),
        "top 15 share of the rest": round(sum(n for _, n in top) / sum(kept.values()), 3),
        "largest / smallest of the top 15": round(top[0][1] / top[-1][1], 2),
        "wrong labels, share of the rest": round(wrong / sum(kept.values()), 3),
        "empty texts": sum(not word_count(row.text) for row in rows),
        "repeated texts": len(rows) - len({row.text for row in rows}),
        "words: shortest": words[0],
        "words: median": statistics.median(words),
        "words: 95th percentile": words[len(words) * 95 // 100],
        "words: longest": words[-1],
        **dict(kept.most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo data set, the same bytes on every run.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: its own)")
    parser.add_argument("--stats", action="store_true", help="print statistics and write nothing")
    args = parser.parse_args()
    if args.stats:
        for name, value in stats(build()[0]).items():
            print(f"{name:<34}{value}")
    else:
        write_all(args.out)


if __name__ == "__main__":
    main()
