"""Each cleaning step alone, what all of them promise, and the default pipeline."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from afina.runtime import text as cleaning
from afina.runtime.text import DEFAULT_STEPS, STEPS, clean_text

SPANISH = "abcdefghijklmnñopqrstuvwxyzáéíóúüABCDEFGHIJKLMNÑOPQRSTUVWXYZÁÉÍÓÚÜ0123456789 ¿?¡!.,;:()«»“”…–—€ºª°"
EMOJI = ["😀", "👩‍👩‍👧", "❤️", "🇪🇸", "👍🏽", "☎", "✅", "🦄"]
spanish = st.lists(st.one_of(st.sampled_from(SPANISH), st.sampled_from(EMOJI)), max_size=60).map("".join)
FRAGMENTS = [
    "<b>", "</b>", "<br>", "<", ">", "b>", "&", "&amp;", "amp;", "lt;", "&lt;", "&#60;", "&#6", "0;", "<!--",
    "-->",
    "<script>", "</script>", "<p class='x'>", '<a href="', '">', "ñ", "á", "n\u0303", "Ã±", "Ã\x83Â±", "â€œ",
    "\u037e",
    "\u226e", "\u0338", "\u212a", "\ud83d", "\ude00", "\udc80", "😀", "\n", "\r\n", "\u2028", "\t", " ",
    "\u200b", "\ufeff",
    "\x00", "\x85", "> ", "-- ", "Saludos,", "El lunes Ana escribió:", "De: ", "Enviado: ",
    "Enviado desde mi iPhone", "@",
    "a@b.es", "www.", "http://", ".com", "/x", "12345678", "Z", "600 123 456", "+34", "-", "(", ")", "İ",
    "ß", "Σ", "hola",
    "DNI ", "ES91 2100 0418 4502 0005 1332", "\u0301" * 35, "\u20e3" * 35, "&Atilde;", "&plusmn;",
]  # fmt: skip
messy = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3)), max_size=14).map("".join)


@pytest.mark.parametrize("step", STEPS)
@settings(deadline=None)
@given(text=st.one_of(messy, st.text(), st.text(st.characters(codec=None))))
def test_a_step_takes_any_text_and_gives_text(step: str, text: str) -> None:
    assert isinstance(STEPS[step](text), str)


@pytest.mark.parametrize("step", [name for name in STEPS if name not in ("unescape_html", "strip_tags")])
@settings(deadline=None)
@given(text=st.one_of(messy, st.text()))
def test_a_step_done_twice_is_a_step_done_once(step: str, text: str) -> None:
    once = STEPS[step](text)
    assert STEPS[step](once) == once


@settings(max_examples=300, deadline=None)
@given(text=messy, steps=st.one_of(st.just(list(DEFAULT_STEPS)), st.permutations(list(STEPS))))
@example(text="&am" * 6 + "p;" * 6 + "lt;b>", steps=list(DEFAULT_STEPS))
@example(text="<" * 12 + "b>" * 12, steps=list(DEFAULT_STEPS))
@example(text="&lt\u037eb&gt\u037e", steps=list(DEFAULT_STEPS))
def test_clean_text_leaves_clean_text_alone_and_encodable(text: str, steps: list[str]) -> None:
    once = clean_text(text, steps)
    assert clean_text(once, steps) == once
    once.encode("utf-8")


NUMBERS = [
    "1",
    "23",
    "456",
    "7890",
    "1234567",
    "12345678",
    "AB12",
    "ABCD",
    "X",
    "k",
    "dni ",
    "Cuenta n. ",
    "RFC: ",
]
MARKS = [
    " ",
    "-",
    ".",
    "/",
    "(",
    ")",
    "+",
    "\u00a0",
    ",",
    ":",
    "www.",
    "WWW.",
    "a.com",
    ".es/x",
    "a",
    "\n",
    "> b",
]
numbers = st.lists(st.sampled_from(NUMBERS + MARKS), max_size=16).map("".join)


@settings(max_examples=1000, deadline=None)
@given(text=st.one_of(messy, numbers), steps=st.lists(st.sampled_from(list(STEPS)), max_size=3))
@example(text="dni 1-2.3/4 5", steps=["mask_ids"])
@example(text="llame al 555-1234", steps=["mask_phones"])
@example(text="ver www.1", steps=["mask_urls"])
@example(text="Hola\x0b> cita", steps=["strip_quotes"])
@example(text="Hola\u2028-- ", steps=["strip_signature"])
def test_clean_text_is_its_steps_one_after_the_other(text: str, steps: list[str]) -> None:
    """It leaves out those that have nothing to do."""
    plain = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for step in steps:
        plain = STEPS[step](plain)
    cleaned = clean_text(text, steps)
    assert cleaned == clean_text(plain, steps)
    assert all(STEPS[step](cleaned) == cleaned for step in steps)


@pytest.mark.parametrize("form", cleaning._ID_FORMS)
@settings(deadline=None)
@given(data=st.data())
def test_every_form_of_a_number_is_something_to_mask(form: str, data: st.DataObject) -> None:
    found = data.draw(st.from_regex(form, fullmatch=True))
    assert re.search(cleaning.TOUCHES["mask_ids"], found)
    assert clean_text(f"es {found} y", ["mask_ids"]) == STEPS["mask_ids"](f"es {found} y")


def test_white_space_is_what_split_takes_for_it_and_control_characters() -> None:
    """Each code point, between two letters."""
    spaces = re.compile(r"[\s\x00-\x20\x7f-\xa0\u200b\ufeff]")
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        expected = "a b" if spaces.match(character) else f"a{character}b"
        assert STEPS["collapse_whitespace"](f"a{character}b") == expected


@settings(deadline=None)
@given(text=spanish)
@example(text="¿Ñandú Ó¿? CAFÉ» Í° Ñ“ Á¡")
def test_spanish_and_emoji_survive_the_defaults(text: str) -> None:
    assert clean_text(text, DEFAULT_STEPS) == " ".join(text.split())


@pytest.mark.parametrize("step", [name for name in DEFAULT_STEPS if name != "collapse_whitespace"])
@settings(deadline=None)
@given(text=spanish)
def test_spanish_and_emoji_survive_each_default_step(step: str, text: str) -> None:
    assert STEPS[step](text) == text


def test_an_unknown_step_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown cleaning step 'lower'; known: unescape_html, .*lowercase"):
        clean_text("x", ["lower"])


def test_no_step_leaves_the_text_except_surrogates() -> None:
    assert clean_text(" <b> &amp; ", []) == " <b> &amp; "
    assert clean_text("a\ud83d\ude00b\udc80", []) == "a😀b\ufffd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("espa&ntilde;ol &#241; &#xF1; &eacute;", "español ñ ñ é"),
        ("doble: &amp;lt;b&amp;gt; &amp;amp;amp; &#38;#38;lt;", "doble: <b> & <"),
        ("R&D, Q&A; a&b", "R&D, Q&A; a&b"),
        ("?a=1&copy=2&lt=3", "?a=1&copy=2&lt=3"),
        ("&#99999999999999; &#xFFFFFFFFFF;", "&#99999999999999; &#xFFFFFFFFFF;"),
        ("&noexiste; &#0; &#xD800;", "&noexiste; \ufffd \ufffd"),
    ],
)
def test_unescape_html(text: str, expected: str) -> None:
    assert cleaning.unescape_html(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>Hola</b>, <i class='x'>pala</i>bra", "Hola, palabra"),
        ("uno<br>dos<br/>tres<p>cuatro</p>", "uno\ndos\ntres\ncuatro\n"),
        ("<td>a</td><td>b</td>", " a  b "),
        ("a < b y c > d", "a < b y c > d"),
        ("a <b y c> d", "a <b y c> d"),
        ("te <3 mucho <email> <nombre> <a@b.com> 1<2>1", "te <3 mucho <email> <nombre> <a@b.com> 1<2>1"),
        ("x<script>if (a<b) {'</p>'}</script>y<style>p {}</style>z", "x y z"),
        ("x<script async>1</SCRIPT >y <script>sin fin", "x y sin fin"),
        ("a<!-- <b>no</b> -->b <!-- sin fin", "ab <!-- sin fin"),
        ('<a title="a > b" href=\'x\'>enlace</a>', "enlace"),
        ("<a href=\"mal>texto</a>", "texto"),
        ("<!DOCTYPE html><html><?xml version='1'?>x</html>", "\nx\n"),
        ("<o:p>x</o:p><![if !mso]>y<![endif]>", "xy"),
        ("<DIV STYLE='a:b'>x</DIV>", "\nx\n"),
        ("<p", "<p"),
    ],
)  # fmt: skip
def test_strip_tags(text: str, expected: str) -> None:
    assert cleaning.strip_tags(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("El aÃ±o que viene, maÃ±ana", "El año que viene, mañana"),
        ("Â¿QuÃ© pasÃ³?", "¿Qué pasó?"),
        ("â€œhola” âœ…", "“hola” ✅"),
        ("El niÃƒÂ±o", "El niño"),
        ("“comillas” ‘curvas’ ＡＢＣ ﬁn…", "“comillas” ‘curvas’ ＡＢＣ ﬁn…"),
        ("ação João não à vista", "ação João não à vista"),
        ("Привет, мир", "Привет, мир"),
    ],
)
def test_fix_mojibake(text: str, expected: str) -> None:
    assert cleaning.fix_mojibake(text) == expected


def test_normalize_unicode() -> None:
    assert cleaning.normalize_unicode("n\u0303 a\u0301 \u212a") == "ñ á K"
    assert cleaning.normalize_unicode("ﬁ ² ＡＢＣ") == "ﬁ ² ＡＢＣ"  # NFC, not NFKC
    stacked = cleaning.normalize_unicode("x" + "\u0323\u0301" * 5000)
    assert len(stacked) <= 32


@settings(deadline=None)
@given(text=st.text())
def test_normalize_unicode_is_nfc(text: str) -> None:
    assert cleaning.normalize_unicode(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qué pingüino, señor Ñáñez", "Que pinguino, señor Ñañez"),
        ("n\u0303\u0301 e\u0301", "ñ e"),
        ("й Ω ά ❤️ ø", "й Ω ά ❤️ ø"),
    ],
)
def test_strip_accents(text: str, expected: str) -> None:
    assert cleaning.strip_accents(text) == expected


def test_lowercase_keeps_what_has_no_case() -> None:
    assert cleaning.lowercase("ÑANDÚ ¿Qué? 😀 <EMAIL>") == "ñandú ¿qué? 😀 <email>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a pepe.pérez+x@correo.gob.es.", "a <email>."),
        ("josé@x.es;ana@y.mx", "<email>;<email>"),
        ("@usuario a@ b @c", "@usuario a@ b @c"),
    ],
)
def test_mask_emails(text: str, expected: str) -> None:
    assert cleaning.mask_emails(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ver https://x.com/a?b=1#c).", "ver <url>)."),
        ("www.hacienda.gob.es, bit.ly/Xy y banco.com.mx", "<url>, <url> y <url>"),
        ("(http://x.es/á)", "(<url>)"),
        ("fin.es verdad. a.m. 3.5 pepe@x.com", "fin.es verdad. a.m. 3.5 pepe@x.com"),
    ],
)
def test_mask_urls(text: str, expected: str) -> None:
    assert cleaning.mask_urls(text) == expected


@pytest.mark.parametrize(
    "number",
    ["600123456", "600 123 456", "91 123 45 67", "+34 600 123 456", "0034600123456", "(55) 1234-5678",
    "555-1234",
     "+52 1 55 1234 5678", "320.555.1234", "+54 9 11 1234-5678"],
)  # fmt: skip
def test_mask_phones(number: str) -> None:
    assert cleaning.mask_phones(f"Llame al {number}, gracias") == "Llame al <phone>, gracias"


@pytest.mark.parametrize(
    "text",
    ["2024-01-15 10:30", "15/01/2024 a las 9", "1.500.000 pesos", "12 500 000", "3.14159265358", "2019-2020",
     "12345", "CUIT 20-12345678-9", "12.345.678-5", "4111 1111 1111 1111", "abc123456789",
     "192.168.100.200:80"],
)  # fmt: skip
def test_what_is_no_phone(text: str) -> None:
    assert cleaning.mask_phones(text) == text


def test_mask_phones_tells_neighbours_apart() -> None:
    assert cleaning.mask_phones("600123456 600123457/600123458") == "<phone> <phone>/<phone>"


@pytest.mark.parametrize(
    "number",
    ["12345678Z", "12345678-z", "12.345.678-Z", "X1234567L", "x-1234567-l", "B12345674", "GOMC800101HDFRRL09",
     "GOMC800101AB1", "12.345.678-5", "12345678-K", "20-12345678-9", "123.456.789-09",
     "ES9121000418450200051332",
     "ES91 2100 0418 4502 0005 1332", "4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005",
     "123-45-6789", "00012345678901234567", "12345678"],
)  # fmt: skip
def test_mask_ids(number: str) -> None:
    assert cleaning.mask_ids(f"Soy {number}. Gracias") == "Soy <id>. Gracias"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DNI: 1234567", "DNI: <id>"),
        ("cuenta nº 0123-456", "cuenta nº <id>"),
        ("cédula 1.020.304.050", "cédula <id>"),
        ("fecha 20240131, 31/01/2024, 1.500.000 €, 2024", "fecha 20240131, 31/01/2024, 1.500.000 €, 2024"),
        ("cuenta con 3 personas", "cuenta con 3 personas"),
    ],
)
def test_mask_ids_by_name_and_not_dates_or_amounts(text: str, expected: str) -> None:
    assert cleaning.mask_ids(text) == expected


def test_phones_and_ids_together() -> None:
    text = "Soy 12345678Z, tel. 600 123 456, IBAN ES91 2100 0418 4502 0005 1332"
    assert clean_text(text, ["mask_phones", "mask_ids"]) == "Soy <id>, tel. <phone>, IBAN <id>"


@pytest.mark.parametrize(
    "quote",
    ["> antes\n>> más", "El lun, 3 may 2021 a las 10:00, Ana (<a@b.es>) escribió:\n> antes",
     "El lun, 3 may 2021, Ana\n<a@b.es> escribió:\nantes", "On Mon, May 3, Ana wrote:\nbefore",
     "-----Mensaje original-----\nantes",
     "________________________________\nDe: Ana\nEnviado: lunes\nPara: Eva\n\nantes",
     "*De:* Ana\n*Fecha:* lunes\nantes", "From: Ana <a@b.es>\nTo: Eva\nSubject: x\n\nbefore",
     "El 5 de marzo de 2024, Ana escribió:\nantes", "El 05/03/24 Ana escribió:\nantes",
     "El 20 de mayo, Ana escribió:\nantes"],
)  # fmt: skip
def test_strip_quotes(quote: str) -> None:
    assert cleaning.strip_quotes(f"De acuerdo.\n\n{quote}").strip() == "De acuerdo."


def test_strip_quotes_leaves_the_rest() -> None:
    for text in (
        "De: todo un poco\ny ya",
        "hola >:( \n>:(",
        "> solo cita",
        "El jefe escribió: no\nnada",
        "Hola.\nEl señor Pérez me escribió esto:\nSu solicitud fue rechazada.",
        "Hola.\nEl 5 de marzo mi hermano les escribió lo siguiente:\nNo llega.",
        "Reclamo\nDe: Santiago\nPara: Valparaíso\nEl bus no pasó",
        "Formulario\nDe: Ana\nFecha: 3/5/2024\nAsunto: Reclamo\nMensaje: no me llega",
        "Formulario\nDe: Ana <a@b.es>\nAsunto: Reclamo\n\nCuerpo del mensaje:\nno me llega",
        "Form\nFrom: Ana <a@b.es>\nSubject: x\n\nMessage Body:\nnothing came",
        "una línea",
    ):
        assert cleaning.strip_quotes(text) == text
    assert cleaning.strip_quotes("> pregunta\nrespuesta\n> otra\nsí") == "respuesta\nsí"


@pytest.mark.parametrize(
    "signature",
    ["-- \nAna Pérez\nDirectora", "Enviado desde mi iPhone", "Saludos cordiales,\nAna\nTel. 5", "Atte.\nAna",
    "Un saludo",
     "AVISO LEGAL: este mensaje ...", "Este mensaje y sus adjuntos son confidenciales",
     "Atentamente,\n\nAna\n\n--\nX",
     "Kind regards,\nAna", "Sent from my phone"],
)  # fmt: skip
def test_strip_signature(signature: str) -> None:
    assert cleaning.strip_signature(f"No funciona.\n\n{signature}") == "No funciona."


def test_strip_signature_leaves_the_rest() -> None:
    long = "y además " * 20
    for text in ("Saludos", f"Saludos\n{long}", "Saludos a todos los del equipo\nfin", "a -- b\nc"):
        assert cleaning.strip_signature(text) == text


def test_collapse_whitespace() -> None:
    assert cleaning.collapse_whitespace("\ufeff a\u00a0\t b\r\n\x00c\u200bd \u3000") == "a b c d"
    assert cleaning.collapse_whitespace("👩‍👩‍👧") == "👩‍👩‍👧"


def test_the_defaults_in_one() -> None:
    text = "<p>El&nbsp;ni&ntilde;o &amp;amp; la niÃ±a</p>\n\n<script>x()</script> ¿vale? n\u0303"
    assert clean_text(text, DEFAULT_STEPS) == "El niño & la niña ¿vale? ñ"


MEGABYTE = 1_000_000
HOSTILE = [
    "&am", "&amp;", "&#3&#5", "<", "<a ", '<a "', "<a '\"", "<!--", "<script>", "<style ", "</", "&lt;",
    "a@", "a.", "www.",
    "http://", "1", "1 ", "1-", "+1", "(", "A1", "ES91 ", "dni 1", "> ", ">\n", "\n", "Saludos\n", "De: x\n",
    "-", "El ",
    "\u0301\u0323", "n\u0303\u0301", "Ã±", "Ã\x83", "\ud800", "İ", "👩‍👩‍👧", "\u200b",
]  # fmt: skip


@pytest.mark.parametrize("fragment", HOSTILE)
def test_a_megabyte_of_hostile_text_takes_seconds(fragment: str) -> None:
    text = "a" + fragment * (MEGABYTE // 4 // len(fragment)) + "x"
    start = time.process_time()
    clean_text(text, list(STEPS))
    assert time.process_time() - start < 10


def test_nested_tags_are_bounded_too() -> None:
    start = time.process_time()
    clean_text("<" * 200_000 + "b>" * 200_000, DEFAULT_STEPS)
    assert time.process_time() - start < 10


def test_the_runtime_text_module_imports_little() -> None:
    code = (
        "import sys, afina.runtime.text as t; t.clean_text('<b>hola</b>', t.DEFAULT_STEPS); "
        "print(sorted({'numpy', 'pyarrow', 'pydantic', 'ftfy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_pattern_is_compiled_where_a_text_needs_it_and_once() -> None:
    # In a process of its own, as others have used the patterns of this one.
    script = (
        "import re, sys\n"
        "compiled = []\n"
        "original = re.compile\n"
        "re.compile = lambda *given: (compiled.append(given[0]), original(*given))[1]\n"
        "from afina.runtime import text\n"
        "assert compiled == [] and not {'regex', 'html', 'ftfy'} & set(sys.modules), compiled\n"
        "for _ in range(3):\n"
        "    assert text.clean_text('un  texto', text.DEFAULT_STEPS) == 'un texto'\n"
        "assert len(compiled) == 1, compiled\n"
        "assert text.mask_emails('de a@b.es') == text.mask_emails('de c@d.es') == 'de <email>'\n"
        "assert len(compiled) == 2, compiled\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_pattern_that_was_never_used_can_be_copied(duplicate: Callable[[Any], Any]) -> None:
    pattern = cleaning._lazy("A(B+)", re.IGNORECASE)
    assert duplicate(pattern).sub("x", "abbc") == pattern.sub("x", "abbc") == "xc"
