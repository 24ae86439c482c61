"""What `benchmarks/engine.py` trains with and what it makes of its turns; nothing is timed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stage_script import benchmark
from tiny import build_tiny_backbone, tiny_texts


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with benchmark("engine") as module:
        yield module


@pytest.fixture(scope="module")
def prepared(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder: Path = build_tiny_backbone(tmp_path_factory.mktemp("backbone"))
    job, encoder = engine.make_job(str(folder), ["a", "b"], torch.device("cpu"))
    rows = [(text, "ab"[number % 2]) for number, text in enumerate(tiny_texts()[:40])]
    return job, engine.encode(rows, ["a", "b"], encoder)


def logits(engine: Any, way: Any, prepared: tuple[Any, Any]) -> Any:
    """What the model says of the texts before training."""
    trained, examples = engine.prepare(way, *prepared, updates=4)
    with trained.finished(0):
        return trained.logits(examples.tokens)


# Compiling takes half a minute.
@pytest.mark.parametrize("name", ["padded", "padded_sdpa", "sdpa", "drawn", "no_dropout", "shuffled", "fp32"])
def test_every_way_computes_the_same(name: str, engine: Any, prepared: tuple[Any, Any]) -> None:
    fp32 = {"precision": "fp32"}
    way = engine.WAYS[name]
    expected = logits(engine, engine.replace(engine.WAYS[engine.USED], params=fp32), prepared)
    found = logits(engine, engine.replace(way, params={**way.params, **fp32}), prepared)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["used", "padded", "sdpa", "drawn", "bf16"])
def test_every_way_trains(name: str, engine: Any, prepared: tuple[Any, Any]) -> None:
    _, part = prepared
    way = engine.WAYS[name]
    trained, examples = engine.prepare(way, *prepared, updates=2)
    trained.forward.train(True)
    for number, batch in enumerate(engine.batches_of(way, part.lengths, 20, 0)):
        updated = trained.update(examples, [batch], number)
        assert np.isfinite(updated.loss_sum)
        assert updated.loss_sum > 0


@pytest.mark.parametrize("name", ["used", "shuffled"])
def test_an_epoch_has_every_text_once(name: str, engine: Any, prepared: tuple[Any, Any]) -> None:
    _, part = prepared
    batches = engine.batches_of(engine.WAYS[name], part.lengths, 16, 0)
    assert len(batches) == 3
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))


def test_dropout_drawn_by_torch_has_its_rate(engine: Any, prepared: tuple[Any, Any]) -> None:
    trained, _ = engine.prepare(engine.WAYS["drawn"], *prepared, updates=1)
    torch.manual_seed(0)
    factors = trained.forward.encoder.pool.mask((500, 400), 0.1, torch.empty(0))
    assert factors.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert (factors == 0).float().mean().item() == pytest.approx(0.1, abs=0.005)


def test_the_last_line_has_every_way_over_the_one_used(engine: Any) -> None:
    rates = {"used": 50.0, "padded": 25.0, "no_dropout": 60.0}
    assert engine.summary(rates) == "engine: padded=0.50 no_dropout=1.20"
    assert (
        engine.table(rates).splitlines()[3]
        == "| through transformers, padded, plain attention | 25.0 | 0.50 |"
    )
