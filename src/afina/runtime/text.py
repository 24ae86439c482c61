"""Text cleaning, the same before training and at prediction time: small named functions from str to str.

Every step takes any string and returns one; none raises. ``clean_text`` applies the steps in the order
given. What a step matches is bounded or possessive, so that a megabyte of hostile input takes seconds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import regex

DEFAULT_STEPS = ("unescape_html", "strip_tags", "fix_mojibake", "normalize_unicode", "collapse_whitespace")

# Characters below appear as they are inside character classes that both `re` and RE2 read.
EMOJI = "\u200d\u2600-\u27bf\ufe0f\U0001f000-\U0001faff"

WORD = r"[^\s\pZ]+"  # a word, to RE2: what white space separates


class _LazyPattern:
    """A pattern that is compiled when it is first used: most texts need few of them, and all take 20 ms."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._given = pattern, flags

    def __reduce__(self) -> tuple[type[_LazyPattern], tuple[str, int]]:
        return _LazyPattern, self._given

    def __getattr__(self, name: str) -> Any:
        compiled = re.compile(*self._given)
        # From here on they are found without asking.
        self.fullmatch, self.match = compiled.fullmatch, compiled.match
        self.search, self.sub = compiled.search, compiled.sub
        return getattr(compiled, name)


def _lazy(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return cast("re.Pattern[str]", _LazyPattern(pattern, flags))


# ---------------------------------------------------------------------------------------- HTML

# A name needs its semicolon ("?a=1&copy=2" is no ©); a number has at most seven digits, as code points do.
_CHARACTER_REFERENCE = _lazy(
    r"&(?:#[0-9]{1,7}+(?![0-9]);?|#[xX][0-9a-fA-F]{1,6}+(?![0-9a-fA-F]);?|[A-Za-z][A-Za-z0-9]{1,31};)"
)
_REPEATED_AMPERSAND = _lazy(r"&(?:amp;|#0*38;|#[xX]0*26;){2,}+")


def unescape_html(text: str) -> str:
    """Replace character references (``&ntilde;``, ``&#241;``) by their characters, also if escaped twice."""
    if "&" not in text:
        return text
    for _ in range(3):
        before = text
        text = _CHARACTER_REFERENCE.sub(_unescape, _REPEATED_AMPERSAND.sub("&amp;", text))
        if text == before:
            break
    return text


def _unescape(match: re.Match[str]) -> str:
    import html

    return html.unescape(match[0])


_BLOCKS, _CELLS, _INLINE = (
    frozenset(names.split())
    for names in (
        """address article aside blockquote body br center dd details dialog div dl dt fieldset figcaption
        figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html iframe legend li link main
        menu meta nav noscript ol optgroup option p pre section select summary table tbody textarea tfoot
        thead title tr ul""",
        """audio base button canvas caption col colgroup embed img input object param source svg td th track
        video wbr""",
        """a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label map mark meter nobr
        output q rp rt ruby s samp script small span strike strong style sub sup time tt u var""",
    )
)
_OFFICE = ("o:", "w:", "v:", "x:", "m:", "st1:")
_HIDDEN_END = {
    "script": _lazy(r"</script\s*+>", re.IGNORECASE),
    "style": _lazy(r"</style\s*+>", re.IGNORECASE),
}
_TAG = _lazy(
    r"""<(?:(?P<comment>!--)
    |(?P<declaration>!doctype\b[^<>]*+>|\?xml\b[^<>]*+>|!\[(?:end)?if\b[^<>]*+>|!\[cdata\[)
    |(?P<close>/?)(?P<name>[a-z][a-z0-9]*+(?::[a-z0-9]++)?)(?=[\s/>])
     (?:(?P<rest>(?:[^<>"']|"[^"<]*+"|'[^'<]*+')*+)>|(?P<loose>[^<>]*+)>))""",
    re.IGNORECASE | re.VERBOSE,
)


def strip_tags(text: str) -> str:
    """Remove HTML tags, comments, scripts and style sheets; blocks end in a new line, cells in a space.

    Only HTML's own element names count, with attributes that look like attributes: ``a < b``, ``<3``,
    ``<email>`` and ``<nombre>`` stay.
    """
    if "<" not in text:
        return text
    parts: list[str] = []
    position = 0  # text before it is in parts
    search = 0
    open_ended: set[str] = set()  # what was looked for up to the end in vain, so that it is looked for once
    while match := _TAG.search(text, search):
        end, replacement = match.end(), ""
        name = (match["name"] or "").lower()
        if match["comment"]:
            close = -1 if "comment" in open_ended else text.find("-->", match.end())
            if close < 0:
                open_ended.add("comment")
                search = match.end()
                continue
            end = close + 3
        elif name:
            replaced = _replacement(name, bool(match["close"]), match["rest"] or match["loose"] or "")
            if replaced is None:
                search = match.start() + 1
                continue
            replacement = replaced
            if name in _HIDDEN_END and not match["close"] and name not in open_ended:
                hidden = _HIDDEN_END[name].search(text, match.end())
                if hidden:
                    end, replacement = hidden.end(), " "
                else:
                    open_ended.add(name)
        parts += [text[position : match.start()], replacement]
        position = search = end
    parts.append(text[position:])
    return "".join(parts)


def _replacement(name: str, closes: bool, rest: str) -> str | None:
    """What stands for a tag: a new line, a space or nothing; None if it is no tag."""
    blank = not rest.strip(" /\t\r\n")
    if not (blank or (not closes and ("=" in rest or name in _HIDDEN_END))):
        return None
    if name in _BLOCKS:
        return "\n"
    if name in _CELLS:
        return " "
    return "" if name in _INLINE or name.startswith(_OFFICE) else None


# ------------------------------------------------------------------------------------- Unicode

# Mojibake always holds a character outside this set (Ã, Â, â, ð, √, Г ...). A text made of Spanish letters,
# ordinary punctuation and emoji is never touched, whatever a heuristic would say of "Í¿" or "CAFÉ»".
SUSPECT = f"[^\\x00-\\x7fáéíóúüñÁÉÍÓÚÜÑ¿¡ªº«»°´·–—‘’“”…€\u00a0{EMOJI}]"
_SUSPECT = _lazy(SUSPECT)


def fix_mojibake(text: str) -> str:
    """Repair UTF-8 that was read in another encoding (``espaÃ±ol``), with ftfy; quotes and widths stay."""
    if text.isascii() or not _SUSPECT.search(text):
        return text
    import ftfy

    try:
        return ftfy.fix_encoding(text)
    except (UnicodeError, ValueError):
        return text


# All characters that this class leaves out are in normal form whatever stands beside them.
DENORMALIZABLE = f"[^\\x00-\u02ff\u2010-\u2027\u20ac{EMOJI}]"
_DENORMALIZABLE = _lazy(DENORMALIZABLE)


# Stream-Safe Text Format (UAX 15, section 13): no language stacks more than 30 marks; sorting them costs
# their number squared. Variation selectors are no marks here.
@cache
def _marks() -> regex.Pattern[str]:
    import regex

    return regex.compile(r"([^\P{M}\ufe00-\ufe0f]{30})[^\P{M}\ufe00-\ufe0f]++")


def normalize_unicode(text: str) -> str:
    """Unicode NFC: ``n`` + combining tilde becomes ``ñ``. Of marks stacked on one letter 30 are kept."""
    if text.isascii() or not _DENORMALIZABLE.search(text):
        return text
    return _normalize("NFC", text)


def _normalize(form: str, text: str) -> str:
    return unicodedata.normalize(form, _marks().sub(r"\1", text))  # type: ignore[arg-type]


_ACCENTED = _lazy("([A-Za-z])([\u0300-\u036f]+)")


def strip_accents(text: str) -> str:
    """Remove accents of Latin letters (``á`` → ``a``, ``ü`` → ``u``); ñ is a letter of its own and stays."""
    if text.isascii():
        return text
    return _normalize("NFC", _ACCENTED.sub(_unaccent, _normalize("NFD", text)))


def _unaccent(match: re.Match[str]) -> str:
    letter = match[1]
    return letter + "\u0303" if letter in "nN" and "\u0303" in match[2] else letter


def lowercase(text: str) -> str:
    """Lower-case letters, as `str.lower` does."""
    return text.lower()


# ----------------------------------------------------------------------------------- e-mail parts

_QUOTED_LINE = _lazy(r'[ \t]{0,3}>(?:[ \t>\w¿¡"«(*-]|$)')
# Between the first word and who wrote stands when: "El señor Pérez me escribió esto:" is what someone tells.
_REPLY_HEADER = _lazy(
    r"\s{0,3}(?:El|On|Le|Em|Am|Il)\b(?=.{0,280}?(?:\d:\d\d|\d{4}|\d[/.-]\d|,[^,]{0,20}\d|\d[^,]{0,20},|@)).{3,280}?"
    r"\b(?:escribi[óo]|wrote|a écrit|escreveu|schrieb|ha scritto)\b.{0,40}:\s*$",
    re.IGNORECASE,
)
_ORIGINAL = _lazy(
    r"\s{0,3}[-_>* ]{0,12}(?:mensaje original|mensaje reenviado|original message|forwarded message"
    r"|mensagem original|message d'origine|begin forwarded message)\b",
    re.IGNORECASE,
)
_FROM = _lazy(r"[ \t>*]{0,4}(?:De|From|Von)\*?:\*?\s", re.IGNORECASE)
_SENT = _lazy(r"[ \t>*]{0,4}(?:Enviado(?: el)?|Sent|Fecha|Date)\*?:", re.IGNORECASE)
_TO = _lazy(r"[ \t>*]{0,4}(?:Para|To|Asunto|Subject)\*?:", re.IGNORECASE)
# What a form of a web page calls the message in the mail that it makes: that is no quote.
_FORM = _lazy(
    r"[ \t>*]{0,4}(?:(?:cuerpo del )?mensaje|message(?: body)?|comentarios?|comments?|consulta|descripci[óo]n"
    r"|description|detalles?)\*?:",
    re.IGNORECASE,
)
_RULE = _lazy(r"\s*[_=-]{5,60}\s*$")
_LINE = 400  # characters of a line that the patterns see
_HEADER_LINES = 6  # after "De:", in which the others are looked for


def strip_quotes(text: str) -> str:
    """Remove what a reply quotes: lines with ``>``, and all after "El ... escribió:" or an Outlook header.

    Works on lines, so it belongs before ``collapse_whitespace``. A text that is nothing but quotes stays.
    """
    lines = text.splitlines(keepends=True)
    kept: list[str] = []
    for number, line in enumerate(lines):
        head = line[:_LINE].rstrip()
        if not head:
            kept.append(line)
            continue
        following = [later[:_LINE].rstrip() for later in lines[number + 1 : number + 1 + _HEADER_LINES]]
        if _starts_quote(head, following):
            break
        if not _QUOTED_LINE.match(head):
            kept.append(line)
    while kept and len(kept) < len(lines) and (not kept[-1].strip() or _RULE.match(kept[-1][:_LINE])):
        kept.pop()
    if len(kept) == len(lines) or not "".join(kept).strip():
        return text
    return "".join(kept)


def _starts_quote(head: str, following: list[str]) -> bool:
    if _ORIGINAL.match(head) or _REPLY_HEADER.match(head):
        return True
    if following and _REPLY_HEADER.match(f"{head} {following[0]}") and not _REPLY_HEADER.match(following[0]):
        return True
    if not _FROM.match(head) or any(_FORM.match(line) for line in following):
        return False
    near = following[:4]
    # Who writes of a way has "De:" and "Para:" too; a mail's header has a time, or an address.
    return any(_SENT.match(line) for line in near) or ("@" in head and any(_TO.match(line) for line in near))


_SIGNATURE_MARK = _lazy(
    r"\s{0,3}(?:--\s?$"
    r"|(?:enviado (?:desde|con) (?:mi|outlook|correo|yahoo|gmail)\b|sent from (?:my|outlook|mail|yahoo)\b"
    r"|obtener outlook para|get outlook for|descargar outlook)"
    r"|(?:aviso legal|(?:aviso|cláusula) de confidencialidad|confidentiality notice|disclaimer)\b"
    r"|este (?:mensaje|correo)\b.{0,80}\bconfidencial)",
    re.IGNORECASE,
)
_CLOSING = _lazy(
    r"\s{0,3}(?:(?:reciba[ns]? )?(?:un |muchos )?(?:cordial(?:es)? |atentos? |afectuosos? )?saludos?"
    r"(?: cordial(?:es)?| atentos?| afectuosos?)?|(?:muy )?(?:atentamente|cordialmente|respetuosamente)"
    r"|atte|(?:kind |best |warm )?regards|(?:yours )?(?:sincerely|faithfully|truly))\s*[.,:;!]*\s*$",
    re.IGNORECASE,
)
_CLOSING_LINES = 10  # a closing formula counts among so many last lines


def strip_signature(text: str) -> str:
    """Remove the signature: from ``--``, "Enviado desde mi ...", a legal notice, or a final "Saludos," on.

    Works on lines, so it belongs before ``collapse_whitespace``. A text that is nothing else stays.
    """
    lines = text.splitlines(keepends=True)
    end = len(lines)
    for number, line in enumerate(lines):
        if _SIGNATURE_MARK.match(line[:_LINE].rstrip("\r\n")):
            end = number
            break
    found = True
    while found:
        found = False
        for number in range(max(0, end - _CLOSING_LINES), end):
            after = [line for line in lines[number + 1 : end] if line.strip()]
            if _CLOSING.match(lines[number][:_LINE]) and all(len(line.strip()) <= 60 for line in after):
                end, found = number, True
                break
    if end == len(lines) or not "".join(lines[:end]).strip():
        return text
    return "".join(lines[:end]).rstrip()


# --------------------------------------------------------------------------------------- masks

_EMAIL = _lazy(r"(?<![\w.%+-])[\w.%+-]++@[\w-]++(?:\.[\w-]++)++")
_URL = _lazy(r"""(?<!\w)(?:(?:https?|ftp)://|www\.)[^\s<>"'`´‘’“”«»]++""", re.IGNORECASE)
# A bare host counts if its domain can be no word ("termina bien.es decir") or a path follows.
_HOST = _lazy(
    r"(?<![\w@./-])[a-z0-9-]{1,63}+(?:\.[a-z0-9-]{1,63}+){0,3}?"
    r"(?:\.(?:com|net|org|info|edu|gob|gov)(?:\.[a-z]{2})?(?![\w@-]|\.\w)|\.[a-z]{2,3}(?=/\w))"
    r"(?:/[^\s<>\"'`´‘’“”«»]*+)?",
    re.IGNORECASE,
)
_AFTER_URL = ".,;:!?)]}…*_"


def mask_emails(text: str) -> str:
    """Replace e-mail addresses by ``<email>``."""
    return _EMAIL.sub("<email>", text) if "@" in text else text


def mask_urls(text: str) -> str:
    """Replace web addresses by ``<url>``: with a scheme, with ``www.``, or a host alone."""
    if "." not in text and "://" not in text:
        return text
    return _HOST.sub(_mask_url, _URL.sub(_mask_url, text))


def _mask_url(match: re.Match[str]) -> str:
    found = match[0]
    return "<url>" + found[len(found.rstrip(_AFTER_URL)) :]


_ID_FORMS = (
    r"[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?",  # IBAN
    r"[A-Z][AEIOUX][A-Z]{2}[0-9]{6}[HMX][A-Z]{5}[A-Z0-9][0-9]",  # CURP (Mexico)
    r"[A-ZÑ&]{3,4}[0-9]{6}[A-Z0-9]{3}",  # RFC (Mexico)
    r"[XYZxyz][- ]?[0-9]{7}[- ]?[A-Za-z]",  # NIE (Spain)
    r"[A-HJNP-SUVW]-?[0-9]{7}-?[0-9A-J]",  # NIF of companies (Spain)
    r"[0-9]{8}-?[A-Za-z]|[0-9]{8} [A-Z]|[0-9]{2}\.[0-9]{3}\.[0-9]{3} ?-? ?[A-Za-z]",  # DNI (Spain)
    r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9kK]|[0-9]{7,8}-[0-9kK]",  # RUT (Chile)
    r"[0-9]{2}-[0-9]{8}-[0-9]",  # CUIT, CUIL (Argentina)
    r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}",  # CPF (Brazil)
    r"[0-9]{2}\.[0-9]{3}\.[0-9]{3}/[0-9]{4}-[0-9]{2}",  # CNPJ (Brazil)
    r"[0-9]{3}-[0-9]{2}-[0-9]{4}",  # SSN (United States)
    r"[0-9]{4}(?:[ -]?[0-9]{4}){2}[ -]?[0-9]{1,7}|[0-9]{4}[ -][0-9]{6}[ -][0-9]{5}",  # cards
    r"[0-9]{4}[ -][0-9]{4}[ -][0-9]{2}[ -][0-9]{10}",  # CCC (bank accounts, Spain)
)
_ID_FORM = _lazy("|".join(_ID_FORMS))
# How one begins is looked at first: it rules out most places.
_ID = _lazy(rf"(?=[0-9A-ZÑ&xyz])(?<![\w.])(?:(?:{'|'.join(_ID_FORMS)})(?!\w)|[0-9]{{8,}}+(?![\w]))")
_NAMED_ID = _lazy(
    r"(?<!\w)((?:dni|nif|nie|cif|c\.i\.|c[ée]dula|rut|run|cuit|cuil|curp|rfc|nss|pasaporte|passport|ssn|iban|"
    r"cuenta|cta|account|tarjeta|p[óo]liza|expediente)"
    r"(?:[ \t]{1,3}(?:n[úu]mero|number|nro|num|no|n))?[ \t:.#º°]{1,6}+)"
    r"[A-Za-z]{0,3}[-./ ]?[0-9](?:[-./ ]?[0-9]){4,29}(?:-?[A-Za-z])?(?!\w)",
    re.IGNORECASE,
)
_DIGIT = _lazy("[0-9]")
_COMPACT_DATE = _lazy(r"(?:19|20)[0-9][0-9](?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")


def mask_ids(text: str) -> str:
    """Replace identity, tax, card and account numbers by ``<id>``, and any run of 8 digits or more.

    Knows DNI, NIE, NIF, CURP, RFC, RUT, CUIT, CPF, IBAN, cards, and a number after "DNI", "cuenta" ... .
    A date as ``20240131`` stays. Telephone numbers are ids too unless ``mask_phones`` comes before.
    """
    if not _DIGIT.search(text):
        return text
    return _ID.sub(_mask_id, _NAMED_ID.sub(r"\1<id>", text))


def _mask_id(match: re.Match[str]) -> str:
    return match[0] if _COMPACT_DATE.fullmatch(match[0]) else "<id>"


# Takes every run of digits and separators whole; what follows and what it is are looked at afterwards.
_NUMBER = _lazy(r"(?:\+ ?|(?<![\w+]))\(?[0-9](?:[ \u00a0.()/-]{0,2}[0-9])*+")
_DATE = _lazy(
    r"(?<![0-9])(?:[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./][0-9]{1,2}[-./](?:[0-9]{4}|[0-9]{2}))(?![0-9])"
)
_AMOUNT = _lazy(r"[0-9]{1,3}(?:[.][0-9]{3})+|[0-9]+\.[0-9]+|[0-9]{1,2}(?: [0-9]{3})+")
_SHORT_PHONE = _lazy(r"(?!(?:19|20)[0-9][0-9]-(?:19|20)[0-9][0-9]$)[0-9]{3,4}-[0-9]{4}")


def mask_phones(text: str) -> str:
    """Replace telephone numbers by ``<phone>``: 9 to 12 digits, up to 15 after ``+`` or ``00``, or 555-1234.

    Dates, amounts (``1.500.000``) and numbers in the form of an identity number or card stay.
    """
    return _NUMBER.sub(_mask_phones, text)


def _mask_phones(match: re.Match[str]) -> str:
    found, text, end = match[0], match.string, match.end()
    if end < len(text) and (
        text[end].isalnum() or (text[end] in "_-,.:" and text[end + 1 : end + 2].isalnum())
    ):
        return found
    if _is_phone(found):
        return "(<phone>" if found.count("(") > found.count(")") else "<phone>"
    pieces = re.split(r"([ \u00a0/]+)", found)
    return "".join("<phone>" if _is_phone(piece) and len(pieces) > 1 else piece for piece in pieces)


def _is_phone(number: str) -> bool:
    if len(number) > 40:
        return False
    digits = sum(character.isdigit() for character in number)
    if number.startswith(("+", "00")):
        return 8 <= digits <= 15 + 2 * number.startswith("00")
    if _DATE.search(number) or _AMOUNT.fullmatch(number):
        return False
    if digits < 9:
        return bool(_SHORT_PHONE.fullmatch(number))
    return digits <= 12 and not _ID_FORM.fullmatch(number)


# ------------------------------------------------------------------------------------ white space

# Control characters, zero-width space and byte order mark count as white space, which str.split does not
# take them for. The joiner that holds emoji together (U+200D) does not count.
_CONTROLS = _lazy(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\ufeff]")


def collapse_whitespace(text: str) -> str:
    """Turn each run of white space and control characters into one space; none at either end."""
    return " ".join(_CONTROLS.sub(" ", text).split())


STEPS: dict[str, Callable[[str], str]] = {
    "unescape_html": unescape_html,
    "strip_tags": strip_tags,
    "fix_mojibake": fix_mojibake,
    "normalize_unicode": normalize_unicode,
    "strip_quotes": strip_quotes,
    "strip_signature": strip_signature,
    "mask_emails": mask_emails,
    "mask_urls": mask_urls,
    "mask_phones": mask_phones,
    "mask_ids": mask_ids,
    "lowercase": lowercase,
    "strip_accents": strip_accents,
    "collapse_whitespace": collapse_whitespace,
}
"""Every step by name, in an order that makes sense for most texts."""

_LATER_LINE = "[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]"
_PUNCTUATION = f"¿¡ªº«»°´·–—‘’“”…€\u00a0{EMOJI}"

TOUCHES: dict[str, str] = {
    "unescape_html": "&",
    "strip_tags": "<[A-Za-z/!?\u0130\u0131\u017f\u212a]",
    "fix_mojibake": SUSPECT,
    "normalize_unicode": DENORMALIZABLE,
    "strip_quotes": _LATER_LINE,
    "strip_signature": _LATER_LINE,
    "mask_emails": "@",
    "mask_urls": "://|w\\.|W\\.|\\.[A-Za-z\u0130\u0131\u017f\u212a]{2}",
    "mask_phones": "[0-9](?:[ \u00a0.()/-]{0,2}[0-9]){6}",
    "mask_ids": "[0-9](?:(?:[-./ ]?[0-9]){4}|[0-9](?:[ -]?[A-Z0-9]{4}){2})",
    "lowercase": f"[^\\x00-@\\[-\\x7fáéíóúüñ{_PUNCTUATION}]",
    "strip_accents": f"[^\\x00-\\x7fñÑ{_PUNCTUATION}]",
    "collapse_whitespace": "^ | $|  |[\\x00-\\x1f\\x7f-\u00a0\u1680\u2000-\u200b\u2028"
    "\u2029\u202f\u205f\u3000\ufeff]",
}
"""Step -> pattern, for both `re` and RE2, without which the step leaves a text as it is."""

_REPEAT_BUDGET = 3_000_000  # characters worked on in repeating the steps over one text


def clean_text(text: str, steps: Sequence[str]) -> str:
    """Apply the named ``steps`` in their order, again until nothing changes: clean text stays as it is.

    Steps undo what hides from others (``&lt;b&gt;`` is a tag once unescaped), so one pass is not enough.
    Lone surrogates, which neither UTF-8 nor a tokenizer can hold, become U+FFFD whatever the steps.

    Raises:
        ValueError: a step is unknown; the message lists the known ones.
    """
    functions = _functions(tuple(steps))
    text = _encodable(text)
    for _ in range(max(3, _REPEAT_BUDGET // (len(text) + 1))):
        before = text
        for touches, function in functions:
            if touches(text):
                text = function(text)
        if text == before:
            break
    return _encodable(text)


_Step = tuple[Callable[[str], object], Callable[[str], str]]

# What these search for takes longer than to see that there is none of it; the others see for themselves.
_LONG = ("strip_quotes", "strip_signature", "mask_urls", "mask_phones", "mask_ids")


@lru_cache(maxsize=64)
def _functions(steps: tuple[str, ...]) -> tuple[_Step, ...]:
    """For each step, what is false where it need not be asked, and itself."""
    for name in steps:
        if name not in STEPS:
            raise ValueError(f"unknown cleaning step '{name}'; known: {', '.join(STEPS)}")
    return tuple((re.compile(TOUCHES[name]).search if name in _LONG else bool, STEPS[name]) for name in steps)


def _encodable(text: str) -> str:
    """Join surrogate pairs into the characters they mean; replace lone surrogates by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
