"""Any number of texts in constant memory: windows of them, the next one prepared while one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Texts sorted by length and batched together. Padding then adds 1.3 % to the demo's tokens; it would be 5 %
# with 1024 texts, 27 % with 128.
WINDOW = 4096

# Characters after which a window ends whatever its number of texts; a single text may be longer.
WINDOW_CHARACTERS = 8_000_000


def text_problem(value: object) -> str | None:
    """Why a value cannot be predicted, or None where it can; for callers that would rather go on.

    Every string can be, the empty one too. Nothing else is: None or NaN where a cell was empty, a number, or
    bytes would otherwise be classified by how Python happens to write them.
    """
    return None if isinstance(value, str) else f"expected a string, found {type(value).__name__}"


def checked_texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts one by one, each of them a string.

    Raises:
        TypeError: ``texts`` is one string, a table or a mapping (at once), or one of them is not a string
            (when it is reached).
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts: expected several strings, found one {type(texts).__name__}")
    if _has_columns(texts):
        raise TypeError(
            f"texts: expected several strings, found a {type(texts).__name__}; pass one column of it"
        )
    return _checked(texts)


def _has_columns(texts: object) -> bool:
    """Is it a mapping or a table? Their names, which are strings too, would be classified in place of texts.

    Asked of the class: a pandas Series has the labels of its rows for attributes.
    """
    kind = type(texts)
    is_frame = hasattr(kind, "columns") and hasattr(kind, "iloc")  # pandas and its like
    return is_frame or hasattr(kind, "column_names") or isinstance(texts, Mapping)  # Arrow has column_names


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for position, text in enumerate(texts):
        problem = text_problem(text)
        if problem:
            raise TypeError(f"texts[{position}]: {problem}")
        yield text


def windows(
    texts: Iterable[str], size: int = WINDOW, characters: int = WINDOW_CHARACTERS
) -> Iterator[list[str]]:
    """Cut texts into lists of at most ``size``, and, but for the last text, fewer than ``characters`` in all.

    Where ``texts`` raises, what came before is given first; then the exception is raised.
    """
    window: list[str] = []
    total = 0
    failure: Exception | None = None
    source = iter(texts)
    while True:
        try:
            text = next(source)
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        window.append(text)
        total += len(text)
        if len(window) >= size or total >= characters:
            yield window
            window, total = [], 0
    if window:
        yield window
    if failure is not None:
        raise failure


def prepared_ahead(items: Iterable[T], prepare: Callable[[T], R]) -> Iterator[R]:
    """``prepare(item)`` of each item in order; the next is prepared in a thread while one is in use.

    ``items`` is read where the iterator is used, never in the other thread, so it may hold on to a file or a
    database connection. Where ``items`` raises, what came before is given first.
    """
    from concurrent.futures import Future, ThreadPoolExecutor  # 10 ms that a single text need not wait

    failure: Exception | None = None
    source = iter(items)
    waiting: Future[R] | None = None
    with ThreadPoolExecutor(1, "afina-prepare") as executor:
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            ready, waiting = waiting, executor.submit(prepare, item)
            if ready is not None:
                yield ready.result()
        if waiting is not None:
            yield waiting.result()
    if failure is not None:
        raise failure
