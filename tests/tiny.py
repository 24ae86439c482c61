"""Tiny random-weight backbones and toy messages, built on the spot, for tests that need a model."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from afina.table import BALANCED_SCHEMA

Architecture = Literal["bert", "distilbert", "roberta", "xlm-roberta", "modernbert"]
ARCHITECTURES: tuple[Architecture, ...] = ("bert", "distilbert", "roberta", "xlm-roberta", "modernbert")

FILLER = (
    "el la los una de que en por favor desde ayer señor año mañana según también día calle número "
    "queremos saber cuándo gracias espero respuesta hola buenas tardes situación más información"
)
KEYWORDS = (
    "agua fuga tubería grifo",
    "luz apagón farola cable",
    "factura cobro recibo pago",
    "autobús parada conductor retraso",
    "parque árbol basura jardín",
    "médico cita hospital vacuna",
    "escuela maestra matrícula beca",
    "policía robo ruido vecino",
)
LABELS = ("agua", "luz", "pagos")


def tiny_messages(
    task: Literal["multiclass", "multilabel"] = "multiclass",
    n: int = 60,
    labels: Sequence[str] = LABELS,
    seed: int = 0,
) -> pa.Table:
    """Learnable toy messages (`BALANCED_SCHEMA`, weight 1): each label has words of its own.

    Every label gets examples in turn; a multilabel message has one label or two, at times none.
    At most eight labels.
    """
    assert len(labels) <= len(KEYWORDS)
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(n):
        chosen = {number % len(labels)}
        if task == "multilabel":
            if number % 3 == 1:
                chosen.add((number // 3) % len(labels))
            elif number % 10 == 9:
                chosen = set()
        words = draw.choices(FILLER.split(), k=draw.randint(3, 18))
        for label in sorted(chosen):
            words += draw.choices(KEYWORDS[label].split(), k=2)
        draw.shuffle(words)
        rows.append(
            {
                "id": f"m{seed}-{number:05d}",
                "source": "toy",
                "text": " ".join(words),
                "labels": sorted(labels[label] for label in chosen),
                "group": None,
                "time": None,
                "split": None,
                "weight": 1.0,
            }
        )
    return pa.Table.from_pylist(rows, schema=BALANCED_SCHEMA)


def tiny_texts() -> list[str]:
    """What the tiny tokenizers are trained on."""
    return tiny_messages(n=200, labels=[str(i) for i in range(len(KEYWORDS))], seed=12345)["text"].to_pylist()


def build_tiny_tokenizer(
    architecture: Architecture, texts: Sequence[str], vocabulary: int = 400
) -> Tokenizer:
    """A tokenizer of the architecture's type (WordPiece, byte-level BPE or unigram) trained on ``texts``."""
    if architecture in ("bert", "distilbert"):
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special)
        first, last = "[CLS]", "[SEP]"
    elif architecture == "xlm-roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=vocabulary, special_tokens=special, unk_token="<unk>")
        first, last = "<s>", "</s>"
    else:
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        if architecture == "modernbert":
            special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        first, last = special[0], special[2]
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B {last}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    return tokenizer


def build_tiny_backbone(
    folder: Path, architecture: Architecture = "bert", texts: Sequence[str] | None = None, seed: int = 0
) -> Path:
    """Write a backbone as transformers lays it out: hidden size 32, 2 layers, 2 heads, 64 positions."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tiny_tokenizer(architecture, texts if texts is not None else tiny_texts())
    tokenizer.save(str(folder / "tokenizer.json"))
    roberta_like = architecture in ("roberta", "xlm-roberta")
    names = {
        key: token
        for key, candidates in {
            "pad_token": ("[PAD]", "<pad>"),
            "unk_token": ("[UNK]", "<unk>"),
            "cls_token": ("[CLS]", "<s>"),
            "sep_token": ("[SEP]", "</s>"),
            "mask_token": ("[MASK]", "<mask>"),
        }.items()
        for token in candidates
        if tokenizer.token_to_id(token) is not None
    }
    settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")

    pad = tokenizer.token_to_id(names["pad_token"])
    common: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": pad}
    bert_like: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64 + pad + 1 if roberta_like else 64,
    }
    if architecture == "bert":
        config: Any = transformers.BertConfig(**common, **bert_like)
    elif architecture == "roberta":
        config = transformers.RobertaConfig(**common, **bert_like, type_vocab_size=1)
    elif architecture == "xlm-roberta":
        config = transformers.XLMRobertaConfig(**common, **bert_like, type_vocab_size=1)
    elif architecture == "distilbert":
        config = transformers.DistilBertConfig(
            **common, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
        )
    else:
        config = transformers.ModernBertConfig(
            **common,
            **bert_like,
            cls_token_id=tokenizer.token_to_id("[CLS]"),
            sep_token_id=tokenizer.token_to_id("[SEP]"),
            bos_token_id=tokenizer.token_to_id("[CLS]"),
            eos_token_id=tokenizer.token_to_id("[SEP]"),
            local_attention=16,
            global_attn_every_n_layers=2,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModel.from_config(config)
    model.save_pretrained(str(folder))
    return folder
