"""New tokens: which, in what order, cut how, and where their vectors start from."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from afina.adaptation.pieces import MANY_PIECES, piece_ids, vocabulary_fit, vocabulary_kind, word_counts
from afina.adaptation.vocabulary import (
    Extended,
    choose_glossary,
    choose_tokens,
    extend_vocabulary,
    folded,
    new_tokens,
    read_glossary,
)
from afina.errors import UserError
from afina.modeling.backbone import DEFAULT_BACKBONE, load_tokenizer, resolve_backbone
from afina.training.lexical import new_token_pieces
from tiny import ARCHITECTURES, Architecture, build_tiny_tokenizer, tiny_messages, tiny_texts

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ENGLISH = ["the", "water", "leak", "house", "in", "##s", "##ing"]
VOCABULARY = {
    token: number
    for number, token in enumerate(
        [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS if letter != "s"), *ENGLISH, ".", ","]
    )
}
TABLE = np.random.default_rng(0).normal(size=(len(VOCABULARY), 8)).astype(np.float32)

SPANISH_TEXTS = (
    "La calle lleva tres días sin agua y nadie responde al teléfono.",
    "Quisiera saber cuándo van a reparar la tubería de mi barrio.",
    "Desde ayer por la noche no tenemos luz en todo el edificio.",
    "El camión de la basura no ha pasado esta semana por nuestra calle.",
    "Me cobraron dos veces la misma factura y quiero que me devuelvan el dinero.",
    "Los vecinos estamos cansados del ruido que hace la fábrica por las noches.",
    "Necesito una cita con el médico porque llevo semanas con dolor de espalda.",
    "Muchas gracias por la respuesta, espero que lo solucionen pronto.",
    "El autobús siempre llega tarde y los niños pierden la primera clase.",
    "Solicito información sobre la pensión de jubilación de mi madre.",
    "Hay un árbol caído en el parque que impide el paso a las personas mayores.",
    "Escribo para reclamar porque el funcionario no quiso atender mi solicitud.",
)
ENGLISH_TEXTS = (
    "The street has been without water for three days and nobody answers the phone.",
    "I would like to know when you are going to repair the pipe in my neighborhood.",
    "Since last night we have had no light in the whole building.",
    "The garbage truck did not come by our street this week.",
    "They charged me twice for the same bill and I want my money back.",
    "The neighbors are tired of the noise that the factory makes at night.",
    "I need an appointment with the doctor because my back has hurt for weeks.",
    "Thank you very much for the answer, I hope you solve it soon.",
    "The bus is always late and the children miss their first class.",
    "I request information about the retirement pension of my mother.",
    "There is a fallen tree in the park that blocks the way for older people.",
    "I am writing to complain because the clerk did not want to attend to my request.",
)


def wordpiece(
    vocabulary: dict[str, int] = VOCABULARY, lowercase: bool = True, added: Sequence[str] = ()
) -> str:
    """A BERT tokenizer as json."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    parts: Any = tokenizer
    parts.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    parts.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    parts.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(list(added))
    text: str = tokenizer.to_str()
    return text


def counted(texts: Sequence[str], tokenizer_json: str = "") -> Counter[str]:
    """Words of texts, by default as the tokenizer above finds them."""
    return word_counts(Tokenizer.from_str(tokenizer_json or wordpiece()), texts)


def extended(
    texts: Sequence[str],
    tokenizer_json: str = "",
    table: np.ndarray = TABLE,
    min_count: int = 4,
    glossary: dict[str, list[str]] | None = None,
) -> Extended:
    tokenizer_json = tokenizer_json or wordpiece()
    tokens = choose_tokens(tokenizer_json, counted(texts, tokenizer_json), min_count, glossary=glossary)
    return extend_vocabulary(tokenizer_json, table, tokens, glossary)


def chosen_glossary(asked: str | None, tokenizer_json: str, texts: Sequence[str]) -> Any:
    return choose_glossary(asked, Tokenizer.from_str(tokenizer_json), counted(texts, tokenizer_json))


def pieces(tokenizer_json: str, texts: Sequence[str]) -> float:
    return vocabulary_fit(tokenizer_json, counted(texts, tokenizer_json)).pieces_per_word


def row(found: Extended, token: str) -> np.ndarray:
    return found.embeddings[Tokenizer.from_str(found.tokenizer_json).token_to_id(token)]


def cut(tokenizer_json: str, text: str) -> list[str]:
    tokens: list[str] = Tokenizer.from_str(tokenizer_json).encode(text, add_special_tokens=False).tokens
    return tokens


def joined(tokens: Sequence[str]) -> str:
    """The words that tokens stand for."""
    return " ".join(tokens).replace(" ##", "")


def mean(*tokens: str) -> np.ndarray:
    return np.mean([TABLE[VOCABULARY[token]] for token in tokens], axis=0)


@pytest.fixture(scope="module")
def minilm() -> str:
    return load_tokenizer(resolve_backbone(DEFAULT_BACKBONE).folder)[0]


# ---------------------------------------------------------------------------------- which tokens


def test_words_are_counted_as_the_tokenizer_sees_them() -> None:
    texts = ["¡Más agua, MÁS agua!", "agua."]
    assert word_counts(Tokenizer.from_str(wordpiece()), texts) == Counter(
        {"¡": 1, "mas": 2, "agua": 3, ",": 1, "!": 1, ".": 1}
    )
    cased = Tokenizer.from_str(wordpiece(lowercase=False))
    assert word_counts(cased, texts) == Counter(
        {"¡": 1, "Más": 1, "MÁS": 1, "agua": 3, ",": 1, "!": 1, ".": 1}
    )


def test_words_of_a_tokenizer_without_normaliser_or_pre_tokenizer() -> None:
    bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    assert word_counts(bare, ["a b", "a b", "c"]) == Counter({"a b": 2, "c": 1})


@given(text=st.text(max_size=40))
def test_words_are_what_a_bert_tokenizer_cuts_into_pieces(text: str) -> None:
    parts: Any = Tokenizer.from_str(wordpiece())
    words = parts.pre_tokenizer.pre_tokenize_str(parts.normalizer.normalize_str(text))
    assert counted([text]) == Counter(word for word, _ in words)


def test_words_are_written_without_the_signs_for_spaces_and_bytes() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert word_counts(tokenizer, ["año, año"]) == Counter({"año": 1, ",": 1, " año": 1})
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert word_counts(tokenizer, ["año más"]) == Counter({"año": 1, " más": 1})


def test_new_tokens_by_hand() -> None:
    counts = {
        "casa": 5,
        "luz": 4,
        "sol": 3,  # too few
        "water": 9,  # known
        "2024": 9,  # no word
        "co2": 9,
        "cantando": 3,
        "saltando": 3,
        "mirando": 3,
    }
    # "##ando" is in three words that stay cut, nine times; "##ta" is too, six times, under twice min_count.
    assert new_tokens(counts, {"water": 0}, "##", 4, 100) == ["##ando", "casa", "luz"]
    assert new_tokens(counts, {"water": 0, "##ando": 1}, "##", 4, 100) == ["casa", "luz"]
    assert new_tokens(counts, {"water": 0}, "##", 4, 2) == ["casa", "luz"]  # no room to look for parts
    assert new_tokens({}, {}, "##", 4, 100) == []


def test_a_part_of_words_that_are_tokens_is_none() -> None:
    # All that would use "##ando" is whole already.
    counts = {"cantando": 4, "saltando": 4, "mirando": 4}
    assert new_tokens(counts, {}, "##", 4, 100) == ["cantando", "mirando", "saltando"]


def test_equally_frequent_parts_are_found_in_the_order_of_their_letters() -> None:
    # Each of five endings is in four words; the trainer's hash tables give letters in another order each run.
    counts = {first + ending: 1 for ending in ("ab", "cd", "ef", "gh", "ij") for first in "tsrq"}
    alphabet = 1 + 14 + 10  # [UNK], letters alone, and letters within words
    for size, expected in (
        (0, []),
        (1, ["##ab"]),
        (2, ["##ab", "##cd"]),
        (4, ["##ab", "##cd", "##ef", "##gh"]),
    ):
        assert new_tokens(counts, {}, "##", 2, alphabet + size) == expected


@settings(deadline=None, max_examples=30)
@given(
    words=st.dictionaries(st.text("abcñ1", min_size=1, max_size=6), st.integers(1, 9), max_size=30),
    min_count=st.integers(1, 5),
    max_size=st.integers(1, 60),
    draw=st.randoms(use_true_random=False),
)
def test_new_tokens_are_bounded_and_do_not_depend_on_the_order_of_words(
    words: dict[str, int], min_count: int, max_size: int, draw: random.Random
) -> None:
    known = {"abc": 0, "##ab": 1}
    found = new_tokens(words, known, "##", min_count, max_size)
    assert len(found) == len(set(found)) <= max_size
    assert not set(found) & set(known)
    assert all(token.removeprefix("##").isalpha() for token in found)
    whole = [token for token in found if not token.startswith("##")]
    assert all(words[token] >= min_count for token in whole)
    assert all(words[one] >= words[other] for one, other in pairwise(whole))
    items = list(words.items())
    draw.shuffle(items)
    assert new_tokens(dict(items), known, "##", min_count, max_size) == found


# ------------------------------------------------------------------------------- the new tokenizer


def test_ids_go_on_where_the_table_ends() -> None:
    found = extended(["agua casa casa"] * 4 + ["the water"])
    assert found.tokens == ["casa", "agua"]
    vocabulary = json.loads(found.tokenizer_json)["model"]["vocab"]
    assert vocabulary == VOCABULARY | {"casa": len(TABLE), "agua": len(TABLE) + 1}
    assert found.embeddings.shape == (len(TABLE) + 2, 8)
    assert found.embeddings.dtype == np.float32
    np.testing.assert_array_equal(found.embeddings[: len(TABLE)], TABLE)
    assert cut(found.tokenizer_json, "Agua in the CASA, casas") == [
        "agua",
        "in",
        "the",
        "casa",
        ",",
        "casa",
        "##s",
    ]
    encoding = Tokenizer.from_str(found.tokenizer_json).encode("casa")
    assert encoding.ids == [2, len(TABLE), 3]


def test_a_table_with_spare_rows() -> None:
    table = np.concatenate([TABLE, np.zeros((5, 8), dtype=np.float32)])
    found = extended(["agua"] * 4, table=table)
    assert Tokenizer.from_str(found.tokenizer_json).token_to_id("agua") == len(TABLE) + 5
    np.testing.assert_allclose(row(found, "agua"), mean("a", "##g", "##u", "##a"), rtol=1e-6)


def test_nothing_to_add() -> None:
    for texts in ([], ["the water in the house"] * 9, ["agua"] * 3):
        found = extended(texts)
        assert (found.tokens, found.translated) == ([], 0)
        np.testing.assert_array_equal(found.embeddings, TABLE)
        assert json.loads(found.tokenizer_json) == json.loads(wordpiece())


def test_added_tokens_keep_their_ids() -> None:
    # Tokens that the model's own vocabulary does not list, with rows after its own.
    tokenizer_json = wordpiece(added=["zzmarca", "agua"])
    table = np.concatenate([TABLE, np.ones((2, 8), dtype=np.float32)])
    text = "zzmarca agua casa the"
    before = Tokenizer.from_str(tokenizer_json).encode(text)
    assert before.ids[1:3] == [len(TABLE), len(TABLE) + 1]
    found = extended([text] * 4, tokenizer_json, table)
    assert found.tokens == ["casa"]
    after = Tokenizer.from_str(found.tokenizer_json).encode(text)
    assert after.tokens == ["[CLS]", "zzmarca", "agua", "casa", "the", "[SEP]"]
    assert after.ids == [2, len(TABLE), len(TABLE) + 1, len(TABLE) + 2, VOCABULARY["the"], 3]


SYLLABLES = ("ca", "sa", "me", "ti", "lo", "ando", "ro", "nu", "ve", "pa", "cion", "tra", "ble", "s")


def corpus(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(300)]
    return [" ".join(draw.choices(words, k=8)) + " in the house." for _ in range(count)]


@pytest.fixture(scope="module")
def grown() -> Extended:
    return extended(corpus(150))


def test_frequent_words_are_whole_and_other_texts_still_readable(grown: Extended) -> None:
    texts = [*corpus(150), *corpus(60, seed=1)]
    known = counted(corpus(150))
    words = {token for token in grown.tokens if not token.startswith("##")}
    assert words == {
        word for word, count in known.items() if count >= 4 and word not in VOCABULARY and word.isalpha()
    }
    assert len(grown.tokens) > len(words) > 50
    assert all(cut(grown.tokenizer_json, word) == [word] for word in words)
    for text in texts:
        assert joined(cut(grown.tokenizer_json, text)) == joined(cut(wordpiece(), text))
    assert pieces(grown.tokenizer_json, texts) < 0.5 * pieces(wordpiece(), texts)


@settings(deadline=None)
@given(words=st.lists(st.text(LETTERS, min_size=1, max_size=10), max_size=8))
def test_a_text_without_new_tokens_keeps_its_ids(grown: Extended, words: list[str]) -> None:
    text = " ".join([*words, "leaking"])
    before = Tokenizer.from_str(wordpiece()).encode(text)
    after = Tokenizer.from_str(grown.tokenizer_json).encode(text)
    assert joined(after.tokens) == joined(before.tokens)
    assert len(after.ids) <= len(before.ids)
    by_word = [Tokenizer.from_str(grown.tokenizer_json).encode(word).ids[1:-1] for word in text.split()]
    old = [Tokenizer.from_str(wordpiece()).encode(word).ids[1:-1] for word in text.split()]
    assert [one for one in by_word if max(one) < len(TABLE)] == [
        other for one, other in zip(by_word, old, strict=True) if max(one) < len(TABLE)
    ]


def test_equal_texts_in_any_order_give_equal_bytes(grown: Extended) -> None:
    texts = corpus(150)
    again = extended(texts)
    random.Random(5).shuffle(texts)
    shuffled = extended(texts)
    for other in (again, shuffled):
        assert other.tokenizer_json == grown.tokenizer_json
        assert other.tokens == grown.tokens
        np.testing.assert_array_equal(other.embeddings, grown.embeddings)


def test_a_real_tokenizers_cut_of_tiny_messages() -> None:
    texts = tiny_texts()
    tokenizer = build_tiny_tokenizer("bert", texts, vocabulary=120)
    table = np.zeros((tokenizer.get_vocab_size(), 4), dtype=np.float32)
    found = extended(texts, tokenizer.to_str(), table, min_count=2)
    grown = Tokenizer.from_str(found.tokenizer_json)
    words = word_counts(tokenizer, texts)
    assert all(grown.encode(word).tokens[1:-1] == [word] for word, count in words.items() if count >= 2)
    assert grown.decode(grown.encode(texts[0]).ids) == tokenizer.decode(tokenizer.encode(texts[0]).ids)


# -------------------------------------------------------------------------------- the first vectors


def test_a_new_word_starts_from_its_meanings_or_else_its_pieces() -> None:
    glossary = {"agua": ["water"], "fuga": ["leak", "water leaks", ""], "otra": ["house"], "sol": []}
    found = extended(["Agua fuga casa sol"] * 4, glossary=glossary)
    assert set(found.tokens) == {"agua", "fuga", "casa", "sol", "otra"}
    assert found.translated == 3
    np.testing.assert_allclose(row(found, "agua"), mean("water"), rtol=1e-6)
    # Each meaning has the same say, however many pieces it has.
    both = (mean("leak") + mean("water", "leak", "##s")) / 2
    np.testing.assert_allclose(row(found, "fuga"), both, rtol=1e-5)
    np.testing.assert_allclose(row(found, "casa"), mean("c", "##a", "##s", "##a"), rtol=1e-5)
    np.testing.assert_allclose(row(found, "sol"), mean("s", "##o", "##l"), rtol=1e-5)


def test_words_of_the_glossary_that_the_texts_lack_come_after_theirs() -> None:
    glossary = {"Zumo": ["water"], "árbol": ["house"], "dos palabras": ["water"], "casa": ["house"]}
    assert extended(["casa casa luz luz luz"] * 4, glossary=glossary).tokens == [
        "luz",
        "casa",
        "arbol",
        "zumo",
    ]
    counts = counted(["zumo", "luz luz"])
    assert choose_tokens(wordpiece(), counts, min_count=2, glossary=glossary)[:2] == ["luz", "zumo"]
    assert choose_tokens(wordpiece(), counts, min_count=2, max_size=2, glossary=glossary) == ["luz", "zumo"]


def test_a_known_word_of_the_glossary_starts_from_its_meanings_too() -> None:
    glossary = {"in": ["water"], "the": ["house", "leak"], "house": ["leak", "house"], ",": ["\u200b"]}
    found = extended(["sol"] * 4, glossary=glossary)
    assert found.redefined == 2
    np.testing.assert_allclose(row(found, "in"), mean("water"), rtol=1e-6)
    np.testing.assert_allclose(row(found, "the"), mean("house", "leak"), rtol=1e-6)
    changed = [VOCABULARY["in"], VOCABULARY["the"]]
    kept = np.delete(np.arange(len(TABLE)), changed)  # "house" is spelt like one of its meanings
    np.testing.assert_array_equal(found.embeddings[kept], TABLE[kept])


def test_meanings_are_those_of_the_table_before_any_word_had_another() -> None:
    found = extended(["sol"] * 4, glossary={"in": ["water"], "water": ["in"]})
    np.testing.assert_allclose(row(found, "in"), mean("water"), rtol=1e-6)
    np.testing.assert_allclose(row(found, "water"), mean("in"), rtol=1e-6)


def test_a_part_of_a_word_starts_from_its_pieces() -> None:
    found = extended(["cantando saltando mirando"] * 3)
    assert found.tokens == ["##ando"]
    np.testing.assert_allclose(row(found, "##ando"), mean("##a", "##n", "##d", "##o"), rtol=1e-5)


def test_a_meaning_of_no_token_is_none() -> None:
    found = extended(["agua"] * 4, glossary={"agua": ["\u200b", " "]})
    assert found.translated == 0
    np.testing.assert_allclose(row(found, "agua"), mean("a", "##g", "##u", "##a"), rtol=1e-5)


def test_letters_that_the_vocabulary_lacks() -> None:
    found = extended(["日本 наш аx"] * 4)
    # Chinese characters are words of one letter each.
    assert set(found.tokens) == {"日", "本", "наш", "аx"}
    for token in ("日", "наш"):
        np.testing.assert_allclose(row(found, token), TABLE.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(row(found, "аx"), mean("##x"), rtol=1e-6)
    assert np.isfinite(found.embeddings).all()


def test_accents_are_folded_as_the_tokenizer_folds_them() -> None:
    glossary = {"está": ["in"], "esta": ["the"], "más": ["water"]}
    uncased = Tokenizer.from_str(wordpiece())
    assert folded(uncased, glossary) == {"esta": ["in", "the"], "mas": ["water"]}
    assert glossary["está"] == ["in"]  # left as it was
    found = extended(["Más MAS está esta"] * 4, glossary=glossary)
    assert set(found.tokens) == {"mas", "esta"}
    np.testing.assert_allclose(row(found, "mas"), mean("water"), rtol=1e-6)
    np.testing.assert_allclose(row(found, "esta"), mean("in", "the"), rtol=1e-5)
    assert folded(Tokenizer.from_str(wordpiece(lowercase=False)), glossary) == glossary


@pytest.mark.parametrize("token", ["casas", "leaking", "theso", "##ando", "##s", "in", "waterss"])
def test_pieces_are_those_of_the_tokenizer(token: str) -> None:
    # A part of a word stands behind a letter that makes no longer piece with it.
    inside = token.startswith("##")
    expected = cut(wordpiece(), "q" + token[2:])[1:] if inside else cut(wordpiece(), token)
    assert piece_ids(token, VOCABULARY, "##") == [VOCABULARY[piece] for piece in expected]


def test_letters_without_a_piece_are_passed_over() -> None:
    assert piece_ids("ñañs", VOCABULARY, "##") == [VOCABULARY["##a"], VOCABULARY["##s"]]
    assert piece_ids("ñ", VOCABULARY, "##") == []


def test_pieces_of_new_tokens_are_what_the_old_tokenizer_made_of_them(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(wordpiece(), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"pad_token_id": 0}', encoding="utf-8")
    found = extended(["casas leaking casas"] * 4)
    assert found.tokens == ["casas", "leaking"]
    first = len(TABLE)
    assert new_token_pieces(tmp_path, found.tokenizer_json, first) == {
        first: [VOCABULARY[piece] for piece in cut(wordpiece(), "casas")],
        first + 1: [VOCABULARY["leak"], VOCABULARY["##ing"]],
    }
    assert new_token_pieces(tmp_path, wordpiece(), None) == {}


# ------------------------------------------------------------------------------------ the glossary


def test_a_glossary_with_other_columns_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text('word,meaning,n\nagua,"water | the water",1\nde,,2\n', encoding="utf-8-sig")
    assert read_glossary(path) == {"agua": ["water", "the water"], "de": [""]}
    assert chosen_glossary(str(path), wordpiece(), []) == read_glossary(path)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_glossary_as_spreadsheets_save_it(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("word,meaning,n\nagua,water|the water,1\n".replace(",", delimiter), encoding="utf-8-sig")
    assert read_glossary(path) == {"agua": ["water", "the water"]}


def test_a_glossary_with_a_row_for_each_meaning(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("word,meaning\nbanco,bank\nagua,water\nbanco ,bench|desk\n", encoding="utf-8")
    assert read_glossary(path) == {"banco": ["bank", "bench", "desk"], "agua": ["water"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the columns word and meaning"),
        (b"word,translation\nagua,water\n", "expected the columns word and meaning"),
        (b"word,meaning\nagua,water\nluz\n", "line 3: 'luz' has no meaning"),
        (b"meaning,word\nwater,agua\nlight\n", "line 3: no word; give each row a word"),
        (b"n,word,meaning\n1,agua,water\n2\n", "line 3: no word; give each row a word"),
        (b"word,meaning\nagua,water,\nbanco,bank, bench\n", r"line 3: more cells .* of 'banco' by \|"),
        ("word,meaning\nmás,more\n".encode("cp1252"), "not UTF-8"),
        (
            b'word,meaning\nagua,water\nluz,"light\n' + b"a,b\n" * 40_000,
            r"line 3: not CSV \(.*\); look for a quote that is not closed",
        ),
        (b'word,meaning\nagua,"water\nluz,light\n', r"line 2: not CSV \(unexpected end of data\)"),
    ],
)
def test_a_glossary_that_is_wrong(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^adapt\.glossary: .*g\.csv: {message}"):
        read_glossary(path)


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_glossary_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^adapt\.glossary: no file .*word and meaning"):
        chosen_glossary(str(tmp_path / name), wordpiece(), [])


def test_the_spanish_glossary_is_chosen_for_spanish_alone(minilm: str) -> None:
    chosen = chosen_glossary("auto", minilm, SPANISH_TEXTS)
    assert chosen is not None
    assert chosen["más"][0] == "more"
    assert chosen_glossary("auto", minilm, ENGLISH_TEXTS) is None
    assert chosen_glossary(None, minilm, SPANISH_TEXTS) is None
    for texts in ([], ["123 456", "789"], ["¿¡ !?"]):  # without any word they are in no language
        assert chosen_glossary("auto", minilm, texts) is None
    # A quarter of the text in Spanish is not enough, three quarters are.
    assert chosen_glossary("auto", minilm, [*SPANISH_TEXTS[:4], *ENGLISH_TEXTS]) is None
    assert chosen_glossary("auto", minilm, [*SPANISH_TEXTS, *ENGLISH_TEXTS[:4]]) is not None


# ---------------------------------------------------------------------------------- is it worth it


def test_pieces_a_running_word_by_hand() -> None:
    # the 1, house 1, casas 5; figures and points are no words.
    assert pieces(wordpiece(), ["The house, casas 2024."]) == pytest.approx(7 / 3)
    assert pieces(wordpiece(), ["the the the", "casas"]) == pytest.approx(8 / 4)
    assert pieces(wordpiece(), ["2024 !"]) == 0.0
    assert pieces(wordpiece(), []) == 0.0


def test_padding_and_truncation_in_the_file_do_not_count() -> None:
    tokenizer = Tokenizer.from_str(wordpiece())
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(4)
    texts = ["The house, casas"]
    assert pieces(tokenizer.to_str(), texts) == pytest.approx(7 / 3)
    assert extended(texts * 4, tokenizer.to_str()).tokens == ["casas"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kind_of_vocabulary_cuts_a_running_word_into_the_pieces_it_has_in_texts(
    architecture: Architecture,
) -> None:
    words = ["más", "señoras", "tuberías", "informaciones"]
    tokenizer = build_tiny_tokenizer(architecture, tiny_texts(), vocabulary=300)
    # In the middle of a text, where a byte-level vocabulary has the space in the word.
    texts = [f"1 {word} 2" for word in words]
    around = len(tokenizer.encode("1 2", add_special_tokens=False).ids)
    expected = [len(tokenizer.encode(text, add_special_tokens=False).ids) - around for text in texts]
    assert max(expected) > 1
    assert pieces(tokenizer.to_str(), texts) == pytest.approx(np.mean(expected))


def test_an_english_vocabulary_has_many_pieces_for_spanish_alone(minilm: str) -> None:
    assert pieces(minilm, SPANISH_TEXTS) > MANY_PIECES
    assert pieces(minilm, ENGLISH_TEXTS) < MANY_PIECES
    table = np.zeros((len(json.loads(minilm)["model"]["vocab"]), 4), dtype=np.float32)
    grown = extended(SPANISH_TEXTS, minilm, table, min_count=1)
    assert pieces(grown.tokenizer_json, SPANISH_TEXTS) < MANY_PIECES


@pytest.mark.parametrize("architecture", ["roberta", "modernbert", "xlm-roberta"])
def test_other_kinds_of_vocabulary_are_left_alone(architecture: Architecture) -> None:
    tokenizer_json = build_tiny_tokenizer(architecture, tiny_texts()).to_str()
    kind = "Unigram" if architecture == "xlm-roberta" else "BPE"
    assert vocabulary_kind(tokenizer_json) == kind
    counts = counted(tiny_messages(n=20)["text"].to_pylist(), tokenizer_json)
    with pytest.raises(UserError, match=rf"^adapt\.vocabulary: .* is a {kind} one; .*set it to none$"):
        choose_tokens(tokenizer_json, counts)
