"""Near duplicates among millions of short texts: MinHash LSH on word shingles, without an object per text.

The method is that of datasketch (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3), and so are the permutations: a signature equals that of ``datasketch.MinHash`` fed with the same
hash values. What differs is the bookkeeping. Shingles are hashed as ranges of one array of letters,
signatures are computed by blocks, the hash tables of the bands are sorted arrays, and every candidate pair is
verified with the exact Jaccard similarity of its shingle sets, so there are no false positives. The number of
bands is chosen so that a pair at the threshold is found with probability 0.999; a more similar one, more
surely. Only where thousands of texts share most of their words, as filled-in forms do, are buckets so full
that not all their pairs can be compared; texts alike in another band too are then compared first.
"""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from afina.progress import Progress

Uint32s = npt.NDArray[np.uint32]
Uint64s = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Item = TypeVar("Item")
Result = TypeVar("Result")

RECALL = 0.999  # of a pair whose similarity is exactly the threshold
# A text is compared with at least so many that follow it in a bucket, and with all as long as a band's
# comparisons stay below the second number: no bucket of a large table costs its square.
NEIGHBOURS = 32
COMPARISONS = 500_000

_CHUNK_BYTES = 500_000  # of text hashed at a time; the temporaries are some 80 times as large
_BLOCK_SHINGLES = 2_048  # permuted at a time: with 64 permutations 512 kB, which stays in the cache
_PAIRS = 50_000  # verified at a time
_SEPARATOR, _DELETED = ord(" "), 0
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64


class Shingles(NamedTuple):
    """The shingle hashes of n texts, one text after another; every text has at least one.

    Those of text i, each once and sorted, are hashes[offsets[i] : offsets[i + 1]]; ``keys`` (n,) tell the
    normalised texts apart.
    """

    hashes: Uint32s
    offsets: Indices
    keys: Uint64s


def near_duplicate_components(
    texts: pa.Array | pa.ChunkedArray, threshold: float = 0.8, shingle_words: int = 3, num_perm: int = 64
) -> Indices:
    """Group texts that are near duplicates of each other, directly or through others.

    Two texts are near duplicates where the Jaccard similarity of their sets of ``shingle_words`` consecutive
    words, in lower case and without accents and punctuation, is at least ``threshold``.

    Returns:
        (n,) the index of the first text of each text's component; a text without near duplicates has its own.
    """
    with Progress("near duplicates: shingles", len(texts), "texts") as progress:
        shingles = shingle_texts(texts, shingle_words, progress)
    _, first, inverse = np.unique(shingles.keys, return_index=True, return_inverse=True)
    # Equal texts are collapsed first: they need no comparison, and they would fill the buckets.
    order = np.sort(first)
    distinct = _take(shingles, order)
    bands, rows = lsh_parameters(threshold, num_perm)
    with Progress("near duplicates: signatures", len(order), "texts") as progress:
        keys = band_keys(distinct, bands, rows, num_perm, progress)
    components = np.arange(len(order), dtype=np.int64)
    with Progress("near duplicates: comparisons", bands, "bands") as progress:
        whole: list[Uint64s] = []  # keys of the bands whose every pair has been compared
        for band in range(bands):
            order_by_bucket = _bucket_order(keys[band], keys[(band + 1) % bands])
            components = _merge_band(keys[band], order_by_bucket, whole, distinct, components, threshold)
            if _compared_whole(keys[band][order_by_bucket]):
                whole.append(keys[band])
            progress.advance()
    return order[components][np.searchsorted(order, first[inverse])]


def shingle_texts(
    texts: pa.Array | pa.ChunkedArray, shingle_words: int, progress: Progress | None = None
) -> Shingles:
    """Hash every run of ``shingle_words`` words of every text; a shorter text is one shingle."""
    parts: list[Shingles] = []

    def done(part: Shingles) -> None:
        parts.append(part)
        if progress is not None:
            progress.advance(len(part.keys))

    _each(lambda chunk: _shingle_chunk(chunk, shingle_words), _chunks(texts), done)
    if not parts:
        return Shingles(np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros(0, np.uint64))
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return Shingles(
        np.concatenate([part.hashes for part in parts]),
        _offsets(counts),
        np.concatenate([part.keys for part in parts]),
    )


def minhash_signatures(hashes: Uint32s, offsets: Indices, num_perm: int) -> Uint32s:
    """MinHash signatures (n, num_perm), equal to ``datasketch.MinHash(num_perm)`` of the same 32-bit hashes.

    ``hashes`` and ``offsets`` are as in `Shingles`; every text must have at least one shingle.
    """
    factor, shift = _permutations(num_perm)
    signatures = np.empty((len(offsets) - 1, num_perm), np.uint32)
    for start, end in _blocks(offsets, _BLOCK_SHINGLES):
        block = _mix32(hashes[offsets[start] : offsets[end]])[:, None] * factor
        block += shift
        np.minimum.reduceat(block, offsets[start:end] - offsets[start], axis=0, out=signatures[start:end])
    return signatures


def lsh_parameters(threshold: float, num_perm: int) -> tuple[int, int]:
    """The number of bands and of rows in a band: the most selective that reach `RECALL` at the threshold.

    A pair of similarity s shares a band with probability 1 - (1 - s^rows)^bands.
    """
    for rows in range(num_perm, 1, -1):
        bands = num_perm // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return num_perm, 1


def band_keys(
    shingles: Shingles, bands: int, rows: int, num_perm: int, progress: Progress | None = None
) -> Uint64s:
    """The key (bands, n) of each text's bucket in each band."""
    keys = np.empty((bands, len(shingles.offsets) - 1), np.uint64)

    def fill(block: tuple[int, int]) -> int:
        start, end = block
        signatures = minhash_signatures(shingles.hashes, shingles.offsets[start : end + 1], num_perm)
        key = np.zeros((end - start, bands), np.uint64)
        for row in range(rows):
            key = _mix64(key ^ signatures[:, row : bands * rows : rows])
        keys[:, start:end] = key.T
        return end - start

    _each(fill, _blocks(shingles.offsets, 128 * _BLOCK_SHINGLES), progress.advance if progress else None)
    return keys


def similar_pairs(shingles: Shingles, left: Indices, right: Indices, threshold: float) -> Mask:
    """Whether the exact Jaccard similarity of each pair of texts reaches the threshold."""
    similar = np.empty(len(left), bool)
    for start in range(0, len(left), _PAIRS):
        part = slice(start, start + _PAIRS)
        first, first_sizes = _shingle_sets(shingles, left[part])
        second, second_sizes = _shingle_sets(shingles, right[part])
        both = np.sort(np.concatenate([first, second]), kind="stable")  # a merge: each half is sorted
        shared = both[1:][both[1:] == both[:-1]] >> np.uint64(32)
        common = np.bincount(shared.astype(np.int64), minlength=len(first_sizes))
        similar[part] = common >= threshold * (first_sizes + second_sizes - common) - 1e-9
    return similar


def merge_components(components: Indices, left: Indices, right: Indices) -> Indices:
    """Join the components of each pair of elements; a component is named by its smallest element."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, ends = np.unique(components[np.concatenate([left, right])], return_inverse=True)
    if not len(names):
        return components
    half = len(left)
    graph = coo_array((np.ones(half, np.int8), (ends[:half], ends[half:])), shape=(len(names), len(names)))
    count, joined = connected_components(graph, directed=False)
    smallest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(smallest, joined, names)
    renamed = np.arange(len(components), dtype=np.int64)
    renamed[names] = smallest[joined]
    return renamed[components]


def _bucket_order(keys: Uint64s, other_keys: Uint64s) -> Indices:
    """Texts by bucket; in one too full to compare all its pairs, texts alike in another band are adjacent."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    full = ordered[NEIGHBOURS:][ordered[NEIGHBOURS:] == ordered[:-NEIGHBOURS]]
    full = np.isin(ordered, np.unique(full)) if len(full) else np.zeros(len(order), bool)
    crowded = order[full]
    order[full] = crowded[np.lexsort((other_keys[crowded], keys[crowded]))]
    return order


def _merge_band(
    keys: Uint64s,
    order: Indices,
    compared: Sequence[Uint64s],
    shingles: Shingles,
    components: Indices,
    threshold: float,
) -> Indices:
    """Join the components of near duplicates that share a bucket of one band, and of none in ``compared``."""
    for left, right in _bucket_pairs(keys[order]):
        left, right = order[left], order[right]
        # Most pairs are joined already through a third text, or were compared in an earlier band.
        new = components[left] != components[right]
        for band in compared:
            new &= band[left] != band[right]
        left, right = left[new], right[new]
        similar = similar_pairs(shingles, left, right, threshold)
        components = merge_components(components, left[similar], right[similar])
    return components


def _bucket_pairs(ordered: Uint64s) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of places with equal keys, the closest first, in portions to compare together."""
    place = np.arange(len(ordered))
    portion: list[tuple[Indices, Indices]] = []
    distance = compared = waiting = 0
    done = False
    while not done:
        distance += 1
        place = place[place + distance < len(ordered)]
        # A pair of one bucket that is farther apart has this one between: what fails here is settled.
        place = place[ordered[place] == ordered[place + distance]]
        compared += len(place)
        done = not len(place) or (distance > NEIGHBOURS and compared > COMPARISONS)
        if not done:
            portion.append((place, place + distance))
            waiting += len(place)
        if portion and (done or waiting >= _PAIRS):
            yield np.concatenate([pair[0] for pair in portion]), np.concatenate([pair[1] for pair in portion])
            portion, waiting = [], 0


def _compared_whole(ordered: Uint64s) -> bool:
    """Whether `_bucket_pairs` gives every pair of these keys."""
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    sizes = np.diff(np.concatenate([[0], changes, [len(ordered)]]))
    pairs = int((sizes * (sizes - 1) // 2).sum())
    return bool(sizes.max(initial=0) <= NEIGHBOURS + 1 or pairs <= COMPARISONS)


def _shingle_chunk(texts: pa.Array, shingle_words: int) -> Shingles:
    """Shingles of one chunk; each is hashed as a range of the chunk's letters."""
    letters, word_start, words = _letters(texts)
    first_word = _offsets(words)
    counts = np.maximum(words - shingle_words + 1, 1)
    offsets = _offsets(counts)
    text = np.repeat(np.arange(len(words)), counts)
    first = first_word[text] + np.arange(offsets[-1]) - offsets[text]
    past = np.minimum(first + shingle_words, first_word[text + 1])
    hash_range = _range_hash(letters)
    hashes = hash_range(word_start[first], word_start[past]) >> np.uint64(32)
    members = np.unique((text.astype(np.uint64) << np.uint64(32)) | hashes)
    counts = np.bincount((members >> np.uint64(32)).astype(np.int64), minlength=len(words))
    keys = hash_range(word_start[first_word[:-1]], word_start[first_word[1:]])
    return Shingles(members.astype(np.uint32), _offsets(counts), keys)


def _letters(texts: pa.Array) -> tuple[Uint64s, Indices, Indices]:
    """The letters and digits of a chunk of n texts: in lower case, without accents and with nothing between.

    A text with no letter or digit at all (only emoji, say) is one word of whatever it has, so that such texts
    do not all become equal.

    Returns:
        letters: code points; those that begin a word carry a flag, so that "a bc" differs from "ab c".
        word_start: (number of words + 1,) where each word begins; it ends where the next one begins.
        words: (n,) how many words each text has.
    """
    octets, limits = _octets(texts)
    codes = np.frombuffer(octets.tobytes().decode("utf-8").encode("utf-32-le"), np.uint32)
    characters = np.zeros(len(octets) + 1, np.int64)
    np.cumsum((octets & 0xC0) != 0x80, out=characters[1:])
    text = np.repeat(np.arange(len(texts)), np.diff(characters[limits]))

    table, alone_table = _folding()
    known = np.minimum(codes, len(table) - 1)
    # Beyond the tables lie rare Chinese characters alone, each a word.
    beyond = codes >= len(table)
    folded = np.where(beyond, codes, table[known])
    alone = beyond | alone_table[known]
    marks = folded == _DELETED
    if marks.any():
        codes, folded, alone, text = (values[~marks] for values in (codes, folded, alone, text))
    inside = folded != _SEPARATOR
    wordless = (np.bincount(text[inside], minlength=len(texts)) == 0)[text]
    folded[wordless], inside[wordless] = codes[wordless], True

    start = inside.copy()
    start[1:] &= ~inside[:-1] | alone[1:] | alone[:-1] | (text[1:] != text[:-1])
    letters = folded[inside].astype(np.uint64) | (start[inside].astype(np.uint64) << np.uint64(32))
    word_start = np.append(np.flatnonzero(start[inside]), len(letters))
    return letters, word_start, np.bincount(text[start], minlength=len(texts))


def _octets(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Indices]:
    """The UTF-8 bytes of an array of n strings and where each string begins and ends (n + 1,)."""
    strings = texts.cast(pa.large_string())
    _, offsets, data = strings.buffers()
    limits = np.frombuffer(offsets, np.int64)[strings.offset : strings.offset + len(strings) + 1]
    return np.frombuffer(data or b"", np.uint8)[limits[0] : limits[-1]], limits - limits[0]


@functools.cache
def _folding() -> tuple[Uint32s, Mask]:
    """What each code point becomes, and whether it is a word of its own (scripts written without spaces)."""
    folded = np.full(0x20000, _SEPARATOR, np.uint32)
    alone = np.zeros(len(folded), bool)
    for code in range(len(folded)):
        character = chr(code)
        if _is_accent(character):
            folded[code] = _DELETED
        elif unicodedata.category(character)[0] in "LMN":
            plain = unicodedata.normalize("NFKD", character.lower())
            folded[code] = ord(plain[0]) if all(map(_is_accent, plain[1:])) else code
            alone[code] = unicodedata.name(character, "").startswith(_UNSPACED)
    return folded, alone


def _is_accent(character: str) -> bool:
    return "\u0300" <= character <= "\u036f"


def _range_hash(letters: Uint64s) -> Callable[[Indices, Indices], Uint64s]:
    """A function from ranges of ``letters`` to 64-bit hashes of their content (Karp and Rabin 1987).

    With H(i) the sum of letter(j) B^j over j < i, modulo 2^64, the range [s, e) has (H(e) - H(s)) B^-s.
    """
    size = len(letters) + 1
    powers = np.full(size, _BASE, np.uint64)
    inverses = np.full(size, pow(_BASE, -1, 2**64), np.uint64)
    powers[0] = inverses[0] = 1
    np.multiply.accumulate(powers, out=powers)
    np.multiply.accumulate(inverses, out=inverses)
    sums = np.zeros(size, np.uint64)
    np.cumsum(letters * powers[:-1], out=sums[1:])
    return lambda begin, end: _mix64((sums[end] - sums[begin]) * inverses[begin])


def _mix64(values: Uint64s) -> Uint64s:
    """The 64-bit finaliser of MurmurHash3: every bit of the input affects every bit of the output."""
    mixed: Uint64s = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return mixed ^ (mixed >> np.uint64(33))


def _mix32(values: Uint32s) -> Uint32s:
    """The 32-bit finaliser of MurmurHash3, which datasketch applies before its permutations."""
    mixed: Uint32s = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> np.uint32(16))


def _permutations(num_perm: int) -> tuple[Uint32s, Uint32s]:
    """The factors and shifts (num_perm,) of datasketch's permutations h -> factor * h + shift modulo 2^32."""
    from datasketch import MinHash

    factor, shift = MinHash(num_perm=num_perm, scheme="affine32").permutations
    return factor.astype(np.uint32), shift.astype(np.uint32)


def _shingle_sets(shingles: Shingles, texts: Indices) -> tuple[Uint64s, Indices]:
    """The shingles of each text (position in ``texts`` times 2^32, plus hash; sorted) and their number."""
    selected = _take(shingles, texts)
    sizes = np.diff(selected.offsets)
    position = np.repeat(np.arange(len(texts), dtype=np.uint64), sizes)
    return (position << np.uint64(32)) | selected.hashes, sizes


def _take(shingles: Shingles, texts: Indices) -> Shingles:
    starts, counts = shingles.offsets[texts], np.diff(shingles.offsets)[texts]
    offsets = _offsets(counts)
    place = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    return Shingles(shingles.hashes[place], offsets, shingles.keys[texts])


def _offsets(counts: npt.NDArray[np.integer]) -> Indices:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _blocks(offsets: Indices, size: int) -> list[tuple[int, int]]:
    """Ranges of texts that together have about ``size`` elements; a larger text is a block of its own."""
    blocks, start, texts = [], 0, len(offsets) - 1
    while start < texts:
        end = int(np.searchsorted(offsets, offsets[start] + size, side="right")) - 1
        end = min(max(end, start + 1), texts)
        blocks.append((start, end))
        start = end
    return blocks


def _chunks(texts: pa.Array | pa.ChunkedArray) -> Iterable[pa.Array]:
    for array in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
        for start, end in _blocks(_offsets(lengths), _CHUNK_BYTES):
            yield array.slice(start, end - start)


def _each(
    work: Callable[[Item], Result], items: Iterable[Item], done: Callable[[Result], None] | None
) -> None:
    """Run ``work`` on threads (Arrow and numpy let go of the interpreter's lock); results come in order."""
    with ThreadPoolExecutor(_threads()) as pool:
        pending: Sequence[Item] = list(items)
        for result in pool.map(work, pending):
            if done is not None:
                done(result)


def _threads() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
