"""Checkpoints: a training run's whole state on disk, so that it can go on after a crash.

One safetensors file holds the weights, the optimizer's moments and the predictions gathered so far, with
the counters in its metadata; a second holds the best weights. There is no generator state to keep: the
batches are a function of seed and epoch, the dropout of an update a function of seed and update.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import afina
from afina.errors import UserError
from afina.files import atomic_path

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class EpochRecord:
    """One line of the history."""

    epoch: int  # 1 = the first
    train_loss: float
    validation_loss: float
    train_macro_f1: float
    validation_macro_f1: float
    learning_rate: float  # of the backbone, at the epoch's last update


@dataclass
class State:
    """How far a run has come, weights and moments apart."""

    epoch: int = 0  # epochs completed
    update: int = 0  # updates done within the epoch under way
    loss_sum: float = 0.0  # over the examples of the epoch under way, on this process
    factor_sum: float = 0.0
    best_epoch: int = 0  # 0 = none yet
    improved_epoch: int = 0  # the last one with a better macro-F1 than all before; a tie is none
    best_macro_f1: float = -1.0
    best_loss: float = float("inf")
    mixture: tuple[float, float] | None = None  # of the best epoch's and the lexical logits
    finished: bool = False
    history: list[EpochRecord] = field(default_factory=list)


class HasState(Protocol):
    """Something with tensors of its own that a checkpoint must keep."""

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take them up again."""


def fingerprint(parts: dict[str, Any]) -> str:
    """Hash of everything a run's result depends on; JSON-serialisable values only."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def code_version(folders: Sequence[str] = ("training", "modeling")) -> str:
    """Hash of the code that trains, by folders of afina, and of the libraries' versions under it."""
    root = Path(afina.__file__).parent
    sources = [path for folder in folders for path in root.glob(f"{folder}/*.py")]
    digest = hashlib.sha256()
    for path in sorted([*sources, root / "runtime" / "encoding.py"]):
        digest.update(path.name.encode() + path.read_bytes())
    for library in ("torch", "transformers", "tokenizers", "accelerate"):
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()


def save_checkpoint(
    folder: Path, key: str, state: State, model: nn.Module, trainer: HasState, seen: Tensor
) -> None:
    """Replace the checkpoint in ``folder``; the previous one stays until the new one is complete.

    Args:
        folder: made if absent.
        key: the run's fingerprint.
        state: counters and history.
        model: its state dict is saved.
        trainer: what else an update depends on, moments above all.
        seen: predictions of the epoch under way.

    Raises:
        UserError: the file cannot be written; the previous checkpoint is as it was.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in trainer.state().items()}
    tensors["seen"] = seen
    _save(folder / CHECKPOINT, tensors, {"fingerprint": key, "state": json.dumps(asdict(state))})
    for path in folder.glob("best-*.safetensors"):
        if path.name != best_name(state.best_epoch):
            path.unlink()


def save_best(folder: Path, epoch: int, model: nn.Module) -> None:
    """Save the weights of the best epoch so far, beside those that an older checkpoint may refer to."""
    _save(folder / best_name(epoch), dict(model.state_dict()), {"format": "pt"})


def load_best(folder: Path, epoch: int) -> dict[str, Tensor]:
    """The weights that `save_best` saved."""
    return load_file(folder / best_name(epoch))


def load_checkpoint(
    folder: Path, key: str, model: nn.Module, trainer: HasState, seen: Tensor, stage: str = "train"
) -> State | None:
    """Bring ``model``, ``trainer`` and ``seen`` to where a checkpoint left off.

    Args:
        folder: of `save_checkpoint`, as are ``key``, ``model``, ``trainer`` and ``seen``.
        stage: whose line it is that says why a checkpoint is ignored.

    Returns:
        Its state; None where there is no checkpoint, or it is unreadable or of another run (a line on the
        standard error says so), and then nothing is changed.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("fingerprint") != key:
                _say(stage, f"{path}: of a run with other parameters, data or code; ignored")
                return None
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        _say(stage, f"{path}: unreadable ({error}); ignored")
        return None
    values = json.loads(metadata["state"])
    history = [EpochRecord(**record) for record in values.pop("history")]
    state = State(**values, history=history)
    if state.best_epoch and not (folder / best_name(state.best_epoch)).is_file():
        _say(stage, f"{path}: the best weights that belong to it are gone; ignored")
        return None
    model.load_state_dict(
        {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
    )
    trainer.load_state(
        {
            name.removeprefix("optimizer/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("optimizer/")
        }
    )
    seen.copy_(tensors["seen"])
    return state


def clear_checkpoints(folder: Path) -> None:
    """Remove checkpoints, best weights and what a killed process left half-written."""
    for pattern in (CHECKPOINT, "best-*.safetensors", ".*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def best_name(epoch: int) -> str:
    """File name of the best weights."""
    return f"best-{epoch}.safetensors"


@contextmanager
def writing(path: Path, then: str = "run again, which goes on from the last checkpoint") -> Iterator[None]:
    """Say what to do when ``path`` cannot be written, above all because the disk is full.

    Args:
        then: what is to be done once there is room.

    Raises:
        UserError: in place of an error of the file system.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(
            f"{path}: cannot be written ({' '.join(reason.split())}); make room for it and {then}"
        ) from error


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with writing(path), atomic_path(path) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata,
        )
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())


def _say(stage: str, line: str) -> None:
    print(f"{stage}: {line}", file=sys.stderr, flush=True)
