"""Explanations: scores known by hand, sums that add up, words out of every kind of tokens, the stage."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import nn

from afina import table
from afina.errors import UserError
from afina.evaluation.predictions import prediction_table, write_predictions
from afina.explanation import attribution
from afina.explanation.attribution import (
    Attribution,
    attribute,
    attribute_backbone,
    attribute_lexical,
    explain_text,
    explain_texts,
    read_tokenizer,
)
from afina.explanation.sample import Chosen, choose_rows
from afina.explanation.words import Word, merge_words
from afina.files import write_json
from afina.labels import LabelSet, Task, encode_labels
from afina.modeling.backbone import load_tokenizer
from afina.modeling.classifier import Pooling, TextClassifier, load_pretrained, pool
from afina.modeling.inference import predict_logits
from afina.modeling.lexical import LexicalScorer
from afina.modeling.store import ClassifierConfig, load_classifier, save_classifier
from afina.params.explain import Choice, ExplainParams
from afina.runtime.encoding import Ids, pad_batch
from stage_script import load_stage
from tiny import ARCHITECTURES, LABELS, Architecture, build_tiny_backbone, build_tiny_tokenizer, tiny_messages

ROOT = Path(__file__).resolve().parents[2]
TEXTS = tiny_messages(n=9, seed=3)["text"].to_pylist()
needs_captum = pytest.mark.skipif(
    importlib.util.find_spec("captum") is None, reason="the extra `explain` is not installed"
)


# --------------------------------------------------------------------------------------- sample


def test_half_are_mistakes() -> None:
    chosen = choose_rows([7, 2, 5, 1], 10, 5, "both", 0)
    assert chosen[:3] == [Chosen(7, "mistake"), Chosen(2, "mistake"), Chosen(5, "mistake")]
    assert [one.why for one in chosen[3:]] == ["random", "random"]
    assert chosen == choose_rows([7, 2, 5, 1], 10, 5, "both", 0)
    assert len({tuple(choose_rows([], 50, 3, "random", seed)) for seed in range(5)}) == 5


def test_mistakes_alone_may_be_fewer() -> None:
    assert choose_rows([3, 0], 10, 5, "mistakes", 0) == [Chosen(3, "mistake"), Chosen(0, "mistake")]


def test_few_mistakes_leave_more_to_draw() -> None:
    assert [one.why for one in choose_rows([3], 10, 6, "both", 0)] == ["mistake", *["random"] * 5]


@given(
    rows=st.integers(1, 30),
    samples=st.integers(1, 40),
    choose=st.sampled_from(["both", "mistakes", "random"]),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_no_row_is_chosen_twice(rows: int, samples: int, choose: Choice, seed: int, data: Any) -> None:
    mistakes = data.draw(st.lists(st.integers(0, rows - 1), unique=True))
    chosen = choose_rows(mistakes, rows, samples, choose, seed)
    assert len({one.row for one in chosen}) == len(chosen)
    assert len(chosen) == min(samples, len(mistakes) if choose == "mistakes" else rows)
    assert all(0 <= one.row < rows for one in chosen)


# ---------------------------------------------------------------------------------------- words


@cache
def small_tokenizer(architecture: Architecture) -> Tokenizer:
    """One that cuts most words into pieces."""
    return build_tiny_tokenizer(architecture, TEXTS, 150)


def shown(text: str, words: Sequence[Word]) -> list[str]:
    return [text[word.start : word.end] for word in words]


@pytest.mark.parametrize(
    ("text", "offsets", "expected"),
    [
        # pieces of a word are one, punctuation is on its own
        ("la fuga.", [(0, 2), (3, 5), (5, 7), (7, 8)], [("la", 1), ("fuga", 6), (".", 8)]),
        # a space at the beginning of a token is none of the word
        ("la fuga", [(0, 2), (2, 5), (5, 7)], [("la", 1), ("fuga", 6)]),
        # the bytes of one character share its place
        ("a 😀!", [(0, 1), (1, 3), (2, 3), (2, 3), (3, 4)], [("a", 1), ("😀", 14), ("!", 16)]),
        # white space and empty tokens count to what follows, at the end to what was before
        ("a  b ", [(0, 0), (0, 1), (1, 2), (2, 4), (4, 5)], [("a", 3), ("b", 28)]),
        # a token of a word and its comma takes the rest of the word in
        ("agua, sí", [(0, 2), (2, 5), (5, 8)], [("agua,", 3), ("sí", 4)]),
        # what joins a word, and what does not
        ("e-mail", [(0, 1), (1, 2), (2, 6)], [("e-mail", 7)]),
        ("son 12.500", [(0, 3), (4, 6), (6, 7), (7, 10)], [("son", 1), ("12.500", 14)]),
        ("luz.No", [(0, 3), (3, 4), (4, 6)], [("luz", 1), (".", 2), ("No", 4)]),
        ("a <email>", [(0, 1), (2, 3), (3, 8), (8, 9)], [("a", 1), ("<email>", 14)]),
        # a mark that belongs to its letter
        ("nin\u0303o", [(0, 3), (3, 4), (4, 5)], [("nin\u0303o", 7)]),
        # scripts without spaces stay as they are cut
        ("水道 ok", [(0, 1), (1, 2), (3, 4), (4, 5)], [("水", 1), ("道", 2), ("ok", 12)]),
        # the model saw the beginning only
        ("fuga grande", [(0, 4), (5, 8)], [("fuga", 1), ("gra", 2)]),
        ("x", [], []),
        ("  ", [(0, 2)], []),
    ],
)  # fmt: skip
def test_words_by_hand(text: str, offsets: list[tuple[int, int]], expected: list[tuple[str, int]]) -> None:
    words = merge_words(text, offsets, [2.0**place for place in range(len(offsets))])
    assert list(zip(shown(text, words), (word.score for word in words), strict=True)) == expected


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_words_are_whole_in_every_kind_of_tokens(architecture: Architecture) -> None:
    """WordPiece, byte-level BPE and unigram pieces of SentencePiece, whose offsets all differ."""
    text = "Desconexión de la luz, según el niño: ¿cuándo?  Nº 12.500 ñandú 😀 <email>"
    encoding = small_tokenizer(architecture).encode(text)
    seen = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    words = merge_words(text, [encoding.offsets[place] for place in seen], [1.0] * len(seen))
    found = shown(text, words)
    assert len(seen) > len(words)
    whole = ["Desconexión", "de", "la", "según", "el", "cuándo", "12.500", "ñandú", "😀"]
    assert [word for word in whole if word in found] == whole
    assert "".join(found) == "".join(text.split())  # nothing of the text is lost
    assert sum(word.score for word in words) == len(seen)


@settings(deadline=None, max_examples=60)
@given(
    text=st.text("abñ áé.,<>-'12水😀\u0303\n", max_size=30),
    architecture=st.sampled_from(["bert", "roberta", "xlm-roberta"]),
)
def test_words_do_not_overlap_and_lose_no_score(text: str, architecture: Architecture) -> None:
    encoding = small_tokenizer(architecture).encode(text, add_special_tokens=False)
    scores = [float(place + 1) for place in range(len(encoding.ids))]
    words = merge_words(text, encoding.offsets, scores)
    ends = [place for word in words for place in (word.start, word.end)]
    assert ends == sorted(ends)
    assert all(part == part.strip() != "" for part in shown(text, words))
    assert sum(word.score for word in words) == (sum(scores) if words else 0)


# ------------------------------------------------------------------------------------- backbone


class Identity(nn.Module):
    """A backbone that gives the embeddings of its tokens."""

    def __init__(self, embeddings: torch.Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=embeddings.shape[1])
        self.embeddings = nn.Embedding.from_pretrained(embeddings)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> SimpleNamespace:
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return SimpleNamespace(last_hidden_state=hidden)


def linear_model(weights: list[list[float]]) -> TextClassifier:
    """Tokens 0 (mask) to 3 of two numbers each; the logits of their mean."""
    embeddings = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, -1.0], [5.0, 5.0]])
    model = TextClassifier(Identity(embeddings), len(weights))
    with torch.no_grad():
        model.head[-1].weight.copy_(torch.tensor(weights))
        model.head[-1].bias.copy_(torch.tensor([9.0] * len(weights)))
    return model.eval()


def ids_of(*tokens: int) -> Ids:
    return np.array(tokens, dtype=np.int64)


@needs_captum
def test_a_linear_model_by_hand() -> None:
    model = linear_model([[3.0, 2.0], [0.0, -4.0]])
    special = np.array([True, False, False, False])
    found = attribute(model, ids_of(3, 1, 2, 1), special, 0, 0, 3)
    # w (x - baseline) / 4: token 1 differs by (1, 0), token 2 by (2, -2)
    np.testing.assert_allclose(found.scores, [0, 0.75, 0.5, 0.75], atol=1e-6)
    assert found.change == pytest.approx(2.0)
    assert found.error < 1e-6
    other = attribute(model, ids_of(3, 1, 2, 1), special, 0, 1, 3)
    np.testing.assert_allclose(other.scores, [0, 0, 2, 0], atol=1e-6)


def test_error_is_relative_to_the_change() -> None:
    assert Attribution(np.array([1.0, 2.0, 0.5]), 3.0).error == pytest.approx(0.5 / 3)
    assert Attribution(np.zeros(2), 0.0).error == 0


def classifier(
    folder: Path, architecture: Architecture = "bert", window: int | None = None, **options: Any
) -> Path:
    """Write a classifier of random weights, with a lexical model where there is a ``window``."""
    task: Task = options.pop("task", "multiclass")
    build_tiny_backbone(folder / "backbone", architecture)
    tokenizer_json, pad = load_tokenizer(folder / "backbone")
    torch.manual_seed(5)
    model = TextClassifier(load_pretrained(folder / "backbone"), len(LABELS), **options)
    with torch.no_grad():  # random backbones say nearly the same of all texts
        model.head[-1].weight.mul_(20)
    if window is not None:
        rows = len(model.backbone.get_input_embeddings().weight)
        scorer = random_scorer(rows)
        model.add_lexical(scorer, (0.75, 1.5), window)
    config = ClassifierConfig(
        task=task,
        labels=list(LABELS),
        max_length=32,
        window=window or 32,
        lexical=None if window is None else scorer.shape(),
        pooling=model.pooling,
        head=[],
        activation="relu",
        dropout=0.1,
        pad_token_id=pad,
        backbone="tiny",
        backbone_revision=None,
        backbone_sha256="0" * 64,
        backbone_licence=None,
        cleaning={"steps": ["collapse_whitespace"]},
        train_data_sha256="1" * 64,
    )
    target = folder / "models" / "classifier"
    save_classifier(target, model, model.backbone.config.to_diff_dict(), tokenizer_json, config)
    return target


def random_scorer(vocabulary: int, order: int = 3, buckets: int = 256) -> LexicalScorer:
    draw = torch.Generator().manual_seed(1)
    scorer = LexicalScorer(vocabulary, buckets, len(LABELS), order)
    for values in (scorer.tokens, scorer.grams):
        values.copy_(torch.randn(values.shape, generator=draw))
        values[:, -1].abs_()
    scorer.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return scorer


@needs_captum
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("window", [None, 10])
def test_scores_add_up(architecture: Architecture, window: int | None, tmp_path: Path) -> None:
    folder = classifier(tmp_path, architecture, window)
    label_set = LabelSet("multiclass", LABELS)
    texts = [*sorted(TEXTS, key=len)[:3], " ".join(TEXTS)]  # the last is cut
    found = explain_texts(folder, label_set, texts, [0, 1, 2, 0], 64)
    for one in found:
        assert one.error < 0.02
        assert max(abs(word.score) for word in one.words) > 0.01
    assert found[-1].words[-1].end < len(texts[-1])
    assert [one.words[-1].end for one in found[:3]] == [len(text) for text in texts[:3]]

    # The sum of the words is what the model says, less what it says of masked tokens.
    model, encoder, config = load_classifier(folder)
    tokenizer, masked = read_tokenizer(folder, config)
    for text, one, target in zip(texts, found, (0, 1, 2, 0), strict=True):
        encoding = tokenizer.encode(text)
        ids, special = np.array(encoding.ids), np.array(encoding.special_tokens_mask, dtype=bool)
        np.testing.assert_array_equal(ids, encoder.encode([text])[0])
        baseline = np.where(special, ids, masked)
        rest = 0.0
        if model.lexical is not None:
            rest = 1.5 * attribute_lexical(model.lexical, ids, special, target)[1]
        with torch.no_grad():
            seen = torch.from_numpy(baseline[: window or 32])[None]
            empty = float(model.backbone_logits(seen, torch.ones_like(seen))[0, target])
        logit = float(predict_logits(model, encoder, [text])[0, target])
        change = logit - (empty if window is None else 0.75 * empty + rest)
        total = sum(word.score for word in one.words)
        assert total == pytest.approx(change, abs=0.02 * abs(change) + 1e-4)


@needs_captum
# The gradient of a maximum jumps, so its integral is rough.
@pytest.mark.parametrize(("pooling", "tolerance"), [("mean", 0.005), ("max", 0.04)])
def test_scores_are_those_of_a_padded_batch(pooling: Pooling, tolerance: float, tmp_path: Path) -> None:
    """Against integrals of the midpoint rule over a padded batch, padding being hidden by its mask."""
    folder = classifier(tmp_path, "roberta", pooling=pooling)
    model, encoder, config = load_classifier(folder)
    tokenizer, masked = read_tokenizer(folder, config)
    encodings = [tokenizer.encode(text) for text in TEXTS[:4]]
    ids = [np.array(encoding.ids) for encoding in encodings]
    special = [np.array(encoding.special_tokens_mask, dtype=bool) for encoding in encodings]
    assert len({len(row) for row in ids}) > 1
    batch, mask = map(torch.from_numpy, pad_batch(ids, encoder.pad_token_id, 40))
    hidden, _ = map(
        torch.from_numpy,
        pad_batch(
            [np.where(kept, row, masked) for row, kept in zip(ids, special, strict=True)],
            encoder.pad_token_id,
            40,
        ),
    )
    embeddings = model.backbone.get_input_embeddings()
    text, baseline = embeddings(batch).detach(), embeddings(hidden).detach()
    gradients, steps = torch.zeros_like(text), 200
    for step in range(steps):
        point = (baseline + (step + 0.5) / steps * (text - baseline)).requires_grad_()
        states = model.backbone(inputs_embeds=point, attention_mask=mask).last_hidden_state
        model.head(pool(states, mask, pooling))[:, 1].sum().backward()
        assert point.grad is not None
        gradients += point.grad / steps
    expected = (gradients * (text - baseline)).sum(dim=-1).numpy()
    for row, (tokens, kept) in enumerate(zip(ids, special, strict=True)):
        scores, _ = attribute_backbone(model, tokens, kept, masked, 1, 64)
        np.testing.assert_allclose(
            scores, expected[row, : len(tokens)], atol=tolerance * np.abs(scores).max()
        )
        assert np.abs(expected[row, len(tokens) :]).max(initial=0) == 0
        assert np.abs(scores[kept]).max() == 0
        assert np.abs(scores).max() > 0.01


@needs_captum
def test_an_explanation_is_that_of_the_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, label_set = classifier(tmp_path, "bert", 10), LabelSet("multiclass", LABELS)
    together = explain_texts(folder, label_set, TEXTS[:3], [0, 1, 2], 16)
    assert [explain_texts(folder, label_set, TEXTS[2:3], [2], 16)[0]] == together[2:]
    # nor does it matter how many steps are computed at once
    monkeypatch.setattr(attribution, "TOKEN_BUDGET", 50)
    for one, other in zip(explain_texts(folder, label_set, TEXTS[:3], [0, 1, 2], 16), together, strict=True):
        scores = [[word.score for word in explanation.words] for explanation in (one, other)]
        np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_the_baseline_is_the_mask_token_or_else_padding(architecture: Architecture, tmp_path: Path) -> None:
    folder = classifier(tmp_path, architecture)
    _, _, config = load_classifier(folder)
    tokenizer, masked = read_tokenizer(folder, config)
    name = tokenizer.id_to_token(masked)
    assert name in ("[MASK]", "<mask>")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace(name, "other"), encoding="utf-8")
    assert read_tokenizer(folder, config)[1] == config.pad_token_id


# -------------------------------------------------------------------------------- lexical model


def test_lexical_scores_by_hand() -> None:
    """[CLS] a b [SEP] with pairs: a pair of two words is halved, one with a special token is not."""
    scorer = LexicalScorer(vocabulary=5, buckets=64, label_count=1, order=2)
    scorer.tokens.copy_(torch.tensor([[0, 0], [1.0, 1.0], [2.0, 1.0], [3.0, 4.0], [5.0, 3.0]]))
    ids, special = ids_of(1, 3, 4, 2), np.array([True, False, False, True])
    weights = {(1, 3): 10.0, (3, 4): 20.0, (4, 2): 40.0}
    rows = scorer.rows(torch.from_numpy(ids)[None])[0][0, :3]
    assert len(set(rows.tolist())) == 3
    for row, weight in zip(rows, weights.values(), strict=True):
        scorer.grams[row] = torch.tensor([weight, 2.0 + (weight == 40) * 1.0])
    scorer.bias.fill_(7.0)
    # the squares: 1 + 4 + 3 + 1 of tokens, 2 + 2 + 3 of pairs, in all 16
    scores, rest = attribute_lexical(scorer, ids, special, 0)
    np.testing.assert_allclose(scores, [0, (3 + 10 + 10) / 4, (5 + 10 + 40) / 4, 0])
    assert rest == pytest.approx(7 + (1 + 2) / 4)
    with torch.no_grad():
        logit = float(scorer(*(torch.from_numpy(part) for part in pad_batch([ids], 0)))[0, 0])
    assert scores.sum() + rest == pytest.approx(logit)


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.lists(st.integers(3, 20), max_size=9),
    order=st.integers(1, 4),
    target=st.integers(0, len(LABELS) - 1),
    data=st.data(),
)
def test_lexical_scores_add_up(tokens: list[int], order: int, target: int, data: Any) -> None:
    scorer = random_scorer(21, order)
    ids = ids_of(1, *tokens, 2)
    special = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    scores, rest = attribute_lexical(scorer, ids, special, target)
    with torch.no_grad():
        logit = float(scorer(*(torch.from_numpy(part) for part in pad_batch([ids], 0)))[0, target])
    assert scores.sum() + rest == pytest.approx(logit, rel=1e-4, abs=1e-4)
    assert (scores[special] == 0).all()


@needs_captum
def test_a_word_beyond_the_window_has_its_lexical_score_alone(tmp_path: Path) -> None:
    folder = classifier(tmp_path, "bert", 5)
    model, _, config = load_classifier(folder)
    tokenizer, masked = read_tokenizer(folder, config)
    encoding = tokenizer.encode(TEXTS[0])
    ids, special = np.array(encoding.ids), np.array(encoding.special_tokens_mask, dtype=bool)
    assert len(ids) > 7
    assert model.lexical is not None
    lexical, _ = attribute_lexical(model.lexical, ids, special, 2)
    found = attribute(model, ids, special, masked, 2, 8)
    np.testing.assert_allclose(found.scores[5:], 1.5 * lexical[5:])
    assert np.abs(found.scores[1:5] - 1.5 * lexical[1:5]).min() > 1e-5
    words = explain_text(model, tokenizer, masked, TEXTS[0], 2, 8).words
    assert sum(word.score for word in words) == pytest.approx(found.scores.sum())


# --------------------------------------------------------------------------------------- errors


def test_without_captum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r'explain\.samples: .*`pip install "afina\[explain\]"`'):
        explain_texts(tmp_path, LabelSet("multiclass", LABELS), TEXTS, [0] * len(TEXTS), 8)


@needs_captum
@pytest.mark.parametrize("label_set", [LabelSet("multiclass", LABELS[::-1]), LabelSet("multilabel", LABELS)])
def test_another_classifier_is_refused(label_set: LabelSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trained for another task or other labels"):
        explain_texts(classifier(tmp_path), label_set, TEXTS, [0] * len(TEXTS), 8)


def test_parameters() -> None:
    assert ExplainParams.parse({}).samples == 0
    for values, message in (
        ({"samples": 1001}, r"explain\.samples: .*1000"),
        ({"samples": -1}, r"explain\.samples"),
        ({"steps": 1}, r"explain\.steps"),
        ({"choose": "all"}, r"explain\.choose: .*'both'"),
        ({"sample": 3}, r"explain\.sample: unknown parameter; did you mean 'samples'"),
    ):
        with pytest.raises(UserError, match=message):
            ExplainParams.parse(values)


# ---------------------------------------------------------------------------------------- stage


@pytest.fixture(scope="module")
def stage() -> ModuleType:
    """pipeline/explain.py as a module."""
    return load_stage("explain")


def lay_out(folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch, params: str = "") -> None:
    """A tiny model, twelve test messages and what was said of them: of every third one something wrong."""
    classifier(folder, "bert", 10, task=task)
    label_set = LabelSet(task, LABELS)
    messages = tiny_messages(task, 12, seed=4)
    rows = messages.drop_columns("weight").to_pylist()
    table.write(
        table.SCHEMA.empty_table().from_pylist(rows, schema=table.SCHEMA),
        folder / "data" / "splits" / "test.parquet",
    )
    write_json(folder / "data" / "clean" / "labels.json", {"task": task, "labels": list(LABELS)})
    truth = encode_labels(messages["labels"], LABELS, task)
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.ones(3), 12).astype(np.float32)
    if task == "multiclass":
        predicted = np.where(np.arange(12) % 3 == 0, (truth + 1) % 3, truth)
        probabilities.sort(axis=1)
        first = (predicted[:, None] + np.arange(3)) % 3
        np.put_along_axis(probabilities, first, probabilities[:, ::-1].copy(), axis=1)
    else:
        predicted = truth.copy()
        predicted[::3, 0] ^= 1
    part = (messages["id"].to_pylist(), truth, predicted, probabilities)
    validation = tuple(values[:2] for values in part)
    both = {"test": part, "validation": ([f"v{name}" for name in validation[0]], *validation[1:])}
    (folder / "reports").mkdir()
    write_predictions(prediction_table(label_set, both), folder / "reports" / "predictions.parquet")  # type: ignore[arg-type]
    (folder / "params.yaml").write_text(f"seed: 7\n{params}", encoding="utf-8")
    monkeypatch.chdir(folder)


@needs_captum
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_stage(
    stage: ModuleType, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lay_out(tmp_path, task, monkeypatch, "explain: {samples: 7, steps: 16}\n")
    written = []
    for _ in range(2):
        stage.main()
        written.append(Path(stage.EXPLANATIONS).read_bytes())
    assert written[0] == written[1]
    assert "explain: 4 confident mistakes and 3 messages drawn at random, largest error" in (
        capsys.readouterr().out
    )
    result = json.loads(written[0])
    assert (result["method"], result["steps"]) == ("integrated gradients", 16)
    found = result["explanations"]
    assert [one["why"] for one in found] == ["mistake"] * 4 + ["random"] * 3
    assert len({one["id"] for one in found}) == 7
    predictions = {
        row["id"]: row
        for row in stage.read_predictions(stage.PREDICTIONS).to_pylist()
        if row["split"] == "test"
    }
    texts = dict(zip(*table.read(stage.TEST, ["id", "text"]).to_pydict().values(), strict=True))
    for one in found:
        row = predictions[one["id"]]
        assert list(one) == [
            "id", "text", "actual", "predicted", "probability", "why", "error", "words",
        ]  # fmt: skip
        assert (one["text"], one["actual"]) == (texts[one["id"]], row["labels"])
        said = row["predicted"][0] if task == "multiclass" else LABELS[int(np.argmax(row["probabilities"]))]
        assert one["predicted"] == said
        assert one["probability"] == round(row["probabilities"][LABELS.index(said)], 4)
        assert (one["why"] == "random") == (row["labels"] == row["predicted"])
        parts = [one["text"][word["start"] : word["end"]] for word in one["words"]]
        assert one["text"].split()[: len(parts)] == parts
        assert one["error"] < 0.1
    if task == "multiclass":
        sure = [one["probability"] for one in found[:4]]
        assert sure == sorted(sure, reverse=True)


@needs_captum
def test_large_errors_are_told(
    stage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lay_out(tmp_path, "multiclass", monkeypatch, "explain: {samples: 2, choose: random}\n")
    monkeypatch.setattr(stage, "LARGE_ERROR", -1.0)
    stage.main()
    captured = capsys.readouterr()
    assert "the scores of 2 of 2 messages" in captured.err
    assert captured.out.startswith("explain: 0 confident mistakes and 2 messages drawn at random")


@needs_captum
@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("data/clean/labels.json", {"task": "multiclass", "labels": ["a", "b", "c"]}, "other labels than"),
        ("data/splits/test.parquet", None, "test.parquet: no row with id"),
    ],
)
def test_files_that_do_not_belong_together(
    stage: ModuleType,
    path: str,
    change: Any,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    lay_out(tmp_path, "multiclass", monkeypatch, "explain: {samples: 2}\n")
    if change is None:
        table.write(table.read(tmp_path / path).slice(1), tmp_path / path)
    else:
        write_json(tmp_path / path, change)
    with pytest.raises(SystemExit):
        stage.main()
    assert message in capsys.readouterr().err


def test_without_samples_nothing_is_read_or_imported(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    code = (
        "import runpy, sys\n"
        f"runpy.run_path({str(ROOT / 'pipeline' / 'explain.py')!r}, run_name='__main__')\n"
        "assert not {'torch', 'captum', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("explain: nothing is explained, as explain.samples is 0 (")
    written = json.loads((tmp_path / "data" / "evaluated" / "explanations.json").read_text(encoding="utf-8"))
    assert written == {"method": "integrated gradients", "steps": 32, "explanations": []}
