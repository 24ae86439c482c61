"""How the learning rate goes over a run."""

from __future__ import annotations


def schedule(update: int, total: int, warmup: float) -> float:
    """Share of the highest learning rate at ``update`` (0 = the first) of ``total``: linear, up then down.

    As in Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    NAACL 2019.
    """
    rising = round(warmup * total)
    if update < rising:
        return (update + 1) / rising
    return (total - update) / max(total - rising, 1)
