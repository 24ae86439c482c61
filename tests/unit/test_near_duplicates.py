from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from afina import near_duplicates
from afina.near_duplicates import (
    lsh_parameters,
    merge_components,
    minhash_signatures,
    near_duplicate_components,
    shingle_texts,
    similar_pairs,
)

WORDS = [f"palabra{number}" for number in range(300)]


def random_texts(rng: np.random.Generator, count: int) -> list[str]:
    """Messages of 3 to 25 words of which a third are earlier messages with a word or two changed."""
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < 0.35:
            words = texts[rng.integers(len(texts))].split()
            for _ in range(rng.integers(0, 3)):
                words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
        else:
            words = [WORDS[index] for index in rng.integers(len(WORDS), size=rng.integers(3, 26))]
        texts.append(" ".join(words))
    return texts


def shingles_of(text: str, size: int = 3) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + size]) for start in range(max(1, len(words) - size + 1))}


def jaccard(left: str, right: str) -> float:
    a, b = shingles_of(left), shingles_of(right)
    return len(a & b) / len(a | b)


def brute_force_components(texts: list[str], threshold: float) -> list[int]:
    components = list(range(len(texts)))
    for i, j in itertools.combinations(range(len(texts)), 2):
        if components[i] != components[j] and jaccard(texts[i], texts[j]) >= threshold:
            low, high = sorted((components[i], components[j]))
            components = [low if component == high else component for component in components]
    return components


@pytest.mark.parametrize("threshold", [0.5, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_comparing_every_pair(threshold: float, seed: int) -> None:
    texts = random_texts(np.random.default_rng(seed), 250)
    expected = brute_force_components(texts, threshold)
    assert len(set(expected)) < len(texts)
    assert near_duplicate_components(pa.array(texts), threshold).tolist() == expected


def test_signatures_equal_datasketch() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 40, size=50)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    hashes = rng.integers(2**32, size=offsets[-1], dtype=np.uint32)
    for num_perm in (16, 128):
        signatures = minhash_signatures(hashes, offsets, num_perm)
        for text, (start, end) in enumerate(itertools.pairwise(offsets)):
            oracle = MinHash(num_perm=num_perm, hashfunc=int)
            oracle.update_batch(hashes[start:end].tolist())
            np.testing.assert_array_equal(signatures[text], oracle.hashvalues)


def test_finds_the_near_duplicates_that_datasketch_finds() -> None:
    texts = random_texts(np.random.default_rng(11), 300)
    components = near_duplicate_components(pa.array(texts), 0.8)
    index = MinHashLSH(threshold=0.8, num_perm=128)
    sketches = []
    for number, text in enumerate(texts):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([" ".join(shingle).encode() for shingle in shingles_of(text)])
        index.insert(str(number), sketch)
        sketches.append(sketch)
    found = 0
    for number, sketch in enumerate(sketches):
        for other in map(int, index.query(sketch)):
            if other != number and jaccard(texts[number], texts[other]) >= 0.8:
                found += 1
                assert components[number] == components[other]
    assert found > 20


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("num_perm", [64, 128])
def test_bands_find_a_pair_at_the_threshold(threshold: float, num_perm: int) -> None:
    bands, rows = lsh_parameters(threshold, num_perm)
    assert bands * rows <= num_perm
    assert 1 - (1 - threshold**rows) ** bands >= 0.999
    tighter = rows + 1
    if tighter <= num_perm:
        assert 1 - (1 - threshold**tighter) ** (num_perm // tighter) < 0.999


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("¡El año NUEVO, por fin!", "el ano nuevo por fin", True),
        ("el an~o", "el ano", False),
        ("a bc", "ab c", False),
        ("uno dos tres", "uno dos cuatro", False),
        ("e\u0301xito total", "éxito total", True),
        ("😀", "😡", False),
        ("😀", "😀", True),
        ("", "hola", False),
        ("한국", "하국", False),
        ("中文文本", "中 文 文 本", True),
        ("中文文本", "中文文字", False),
        ("𠀀𠀁", "𠀀𠀂", False),
        ("Ελλάδα", "ελλαδα", True),
    ],
)
def test_what_counts_as_the_same_text(left: str, right: str, same: bool) -> None:
    components = near_duplicate_components(pa.array([left, right]), 1.0)
    assert bool(components[0] == components[1]) is same


def test_a_short_text_is_one_shingle_and_a_long_one_overlaps() -> None:
    shingles = shingle_texts(pa.array(["hola", "hola mundo", "", "a b c d e"]), 3)
    assert np.diff(shingles.offsets).tolist() == [1, 1, 1, 3]
    unspaced = shingle_texts(pa.array(["中文文本"]), 3)
    assert np.diff(unspaced.offsets).tolist() == [2]


def test_a_sliced_and_chunked_column_is_read_like_a_list() -> None:
    texts = random_texts(np.random.default_rng(5), 60)
    whole = pa.array(["descartado", *texts])
    chunked = pa.chunked_array([whole.slice(1, 20), whole.slice(21, 0), whole.slice(21)])
    expected = near_duplicate_components(pa.array(texts))
    np.testing.assert_array_equal(near_duplicate_components(chunked), expected)


def test_no_text_gives_no_component() -> None:
    assert near_duplicate_components(pa.array([], pa.string())).tolist() == []


def test_many_copies_of_a_template_are_one_component() -> None:
    texts = [" ".join([*WORDS[:30], f"expediente{number}"]) for number in range(2_000)]
    assert set(near_duplicate_components(pa.array(texts)).tolist()) == {0}


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8), min_size=2, max_size=12))
def test_similarity_is_exact(word_lists: list[list[str]]) -> None:
    texts = [" ".join(words) for words in word_lists]
    shingles = shingle_texts(pa.array(texts), 3)
    left, right = (np.array(ends) for ends in zip(*itertools.combinations(range(len(texts)), 2), strict=True))
    for threshold in (1 / 3, 0.5, 1.0):
        expected = [
            jaccard(texts[i], texts[j]) >= threshold - 1e-12 for i, j in zip(left, right, strict=True)
        ]
        assert similar_pairs(shingles, left, right, threshold).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_merging_names_a_component_by_its_first_element(pairs: list[tuple[int, int]]) -> None:
    expected = list(range(20))
    for i, j in pairs:
        low, high = sorted((expected[i], expected[j]))
        expected = [low if component == high else component for component in expected]
    left = np.array([i for i, _ in pairs], np.int64)
    right = np.array([j for _, j in pairs], np.int64)
    assert merge_components(np.arange(20), left, right).tolist() == expected


def test_forms_that_share_most_of_their_words_do_not_hide_near_duplicates() -> None:
    generator = np.random.default_rng(0)
    form = " ".join(f"palabra{number}" for number in range(60))
    own = [" ".join(f"w{word}" for word in generator.integers(0, 5000, 8)) for _ in range(500)]
    copies = [f"{text.rsplit(' ', 1)[0]} otra{number}" for number, text in enumerate(own[:100])]
    texts = pa.array([f"{form} {text}" for text in own + copies])
    components = near_duplicate_components(texts, threshold=0.9)
    np.testing.assert_array_equal(components[500:], components[:100])


def test_buckets_too_full_are_compared_in_part_and_nothing_false_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(near_duplicates, "COMPARISONS", 0)
    monkeypatch.setattr(near_duplicates, "NEIGHBOURS", 2)
    test_forms = [f"uno dos tres cuatro cinco seis siete ocho nueve diez {number}" for number in range(60)]
    components = near_duplicate_components(pa.array(test_forms), threshold=0.8)
    assert len(np.unique(components)) < 60  # neighbours are found, through them others
    alone = near_duplicate_components(
        pa.array([f"{number} {number + 1} {number + 2}" for number in range(60)])
    )
    np.testing.assert_array_equal(alone, np.arange(60))
