"""From a file to a model that can be run: opened once a process, however many ask for it.

What is wrong with a file shows here, in one line, and not at the first prediction.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from afina.errors import UserError
from afina.runtime.container import check_graph, read_properties
from afina.runtime.encoding import Encoder, Ids, pad_batch
from afina.runtime.external import read_external
from afina.runtime.lanes import MOST, Lanes
from afina.runtime.metadata import ArtifactMetadata
from afina.runtime.text import STEPS

Floats = npt.NDArray[np.float32]

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "probabilities")

# All that onnxruntime raises on a file or a batch it cannot use; they share no base class but Exception.
_ERRORS = (
    native.EPFail,
    native.EngineError,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoModel,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
    RuntimeError,
    ValueError,  # names in a graph that are not UTF-8
)

# Nothing, and a letter of no alphabet: whatever the tokenizer, special tokens, unknown tokens and padding.
_PROBE = ("", "\ue000 \ue000")

# A file written so shortly before may be written again within one tick of the clock that dates it.
_SETTLED = 2.0  # seconds

# How long a thread without work looks out for some: from one operator to the next, which takes a fifth off
# the time of one text. The milliseconds that are onnxruntime's own choice take the processor from the
# tokenizer, a server and other programs: on two busy cores one text took four times as long.
SPIN = 20  # microseconds

# More take longer to start than any model to load: with a hundred thousand nothing else happens.
MOST_THREADS = 1024

# A larger file is held in memory once only.
_HELD_TWICE = 1 << 28  # bytes


class ThreadsError(UserError, ValueError):
    """A number of threads out of range: a user's on the command line, else the caller's."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A file as it is in memory; threads may share it.

    Attributes:
        file: where it came from.
        metadata: what the file says about itself.
        encoder: its tokenizer.
        external: files beside it with its weights; none for a model in one file.
        lanes: what computes many batches side by side.
    """

    file: Path
    metadata: ArtifactMetadata
    encoder: Encoder
    external: tuple[Path, ...]
    lanes: Lanes[onnxruntime.InferenceSession]
    _session: onnxruntime.InferenceSession

    def run(
        self, batch: Sequence[Ids], session: onnxruntime.InferenceSession | None = None
    ) -> tuple[Floats, Floats]:
        """Logits and probabilities of one batch of token ids, float32 of shape (len(batch), labels).

        Args:
            batch: token ids of texts.
            session: the one of `lanes`, for a batch among others; None: all threads compute this batch.

        Raises:
            UserError: the graph cannot be computed.
        """
        input_ids, attention_mask = pad_batch(batch, self.metadata.pad_token_id)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        try:
            logits, probabilities = (session or self._session).run(list(OUTPUTS), inputs)
        except _ERRORS as error:
            raise UserError(
                f"{self.file}: a batch of {len(batch)} texts of up to {input_ids.shape[1]} tokens cannot be "
                f"computed; give a smaller token_budget if memory is short, else export the model again "
                f"({_reason(error)})"
            ) from None
        return logits, probabilities


# ------------------------------------------------------------------------------------- sharing

_Key = tuple[int, ...]
_loaded: WeakValueDictionary[_Key, LoadedModel] = WeakValueDictionary()
_loading = threading.Lock()


def load_model(file: Path, threads: int | None = None) -> LoadedModel:
    """The model in a file; the same object as long as somebody holds it and the file stays as it is.

    Args:
        file: a ``model.onnx`` or ``model.int8.onnx`` written by the export stage.
        threads: processor threads, 1 to `MOST_THREADS`; None = as many as the process may use.

    Raises:
        UserError: the file is missing, damaged, not a model of afina, or of a newer schema.
        ThreadsError: ``threads`` is out of range.
    """
    if threads is not None and not (isinstance(threads, int | np.integer) and 1 <= threads <= MOST_THREADS):
        raise ThreadsError(f"threads: expected a whole number of 1 to {MOST_THREADS:,}, found {threads!r}")
    with _loading:
        key = _key(file, threads)
        model = None if key is None else _loaded.get(key)
        if model is None:
            model = _load(file, threads)
            # Not if it was replaced meanwhile: then nobody can say which of the two was read. Nor if its
            # weights are in a file of their own, which may change while this one stays.
            if key is not None and key == _key(file, threads) and not model.external:
                _loaded[key] = model
    return model


def _key(file: Path, threads: int | None) -> _Key | None:
    """What tells one file, and one way to run it, from others; None where the file may still be changing.

    The process counts too: after a fork the threads of a session are left behind in the parent.
    """
    version = _version(file)
    if version is None or not 0 <= version.modified < time.time_ns() - _SETTLED * 1e9:
        return None
    return (os.getpid(), threads or 0, *version)


class _Version(NamedTuple):
    """What changes with a file; times in nanoseconds."""

    device: int
    inode: int
    size: int  # bytes
    modified: int
    changed: int


def _version(file: Path) -> _Version | None:
    """The version of a file; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return _Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


# ------------------------------------------------------------------------------------- loading


def _load(file: Path, threads: int | None) -> LoadedModel:
    """Read and check a file: the tokenizer and the hash while onnxruntime, in a thread, reads the weights."""
    version = _version(file)
    properties = read_properties(file)
    metadata = ArtifactMetadata.from_properties(properties, str(file))
    unknown = [step for step in metadata.cleaning if step not in STEPS]
    if unknown:
        raise UserError(
            f"{file}: metadata cleaning: this afina does not know the step {unknown[0]!r}; "
            "upgrade with `pip install -U afina`"
        )
    weights = read_external(file, properties)  # before onnxruntime follows where they point
    opening = _Opening(file, threads, weights)
    external = tuple(weights)
    del weights  # onnxruntime copies them
    try:
        encoder, probe = _read_tokenizer(metadata, file)
        check_graph(file, properties)
    finally:
        opening.join()
    session = opening.session()
    _check_graph(session, len(metadata.labels), str(file))
    lanes = Lanes(
        0 if external else _lane_count(version, threads), _Reopening(file, version, threads).session
    )
    model = LoadedModel(file, metadata, encoder, external, lanes, session)
    _check_outputs(model, probe)
    return model


def _lane_count(version: _Version | None, threads: int | None) -> int:
    """How many batches are to be computed at a time; 0: one after the other."""
    small = version is not None and version.size <= _HELD_TWICE
    return min(_processors(threads), MOST) if small else 0


def _processors(threads: int | None) -> int:
    return threads or usable_processors() or os.cpu_count() or 1


@dataclass(frozen=True)
class _Reopening:
    """Opens a file once more, for `Lanes`."""

    file: Path
    version: _Version | None
    threads: int | None

    def session(self) -> onnxruntime.InferenceSession | None:
        """A session with few threads; None where the file is another one by now, or memory is short."""
        if _version(self.file) != self.version:
            return None
        # Lanes share what the session has of threads beside their own.
        threads = max(_processors(self.threads) - MOST + 1, 1)
        try:
            opening = _Opening(self.file, threads)
            opening.join()
            session = opening.session()
        except Exception:  # no memory, no thread: all that is lost is speed
            return None
        return session if _version(self.file) == self.version else None


class _Opening(threading.Thread):
    """Opens a session in a thread of its own."""

    def __init__(self, file: Path, threads: int | None, weights: Mapping[Path, bytes] | None = None) -> None:
        super().__init__(name="afina-load", daemon=True)
        self.file, self.threads = file, threads
        self._weights = weights or {}
        self._opened: onnxruntime.InferenceSession | None = None
        self._failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            # Without enable_fallback=False onnxruntime prints, and tries the same once more.
            self._opened = onnxruntime.InferenceSession(
                str(self.file),
                sess_options=_session_options(self.threads, self._weights),
                providers=["CPUExecutionProvider"],
                enable_fallback=False,
            )
        except BaseException as error:  # raised again where somebody listens
            self._failure = error
        finally:
            self._weights = {}

    def session(self) -> onnxruntime.InferenceSession:
        """The session, or in one line why there is none; after `join`."""
        if isinstance(self._failure, _ERRORS):
            raise UserError(
                f"{self.file}: not a usable ONNX model, perhaps damaged; copy or export it again "
                f"({_reason(self._failure)})"
            )
        if self._failure is not None:
            raise self._failure
        return self._opened


def _session_options(
    threads: int | None, weights: Mapping[Path, bytes] | None = None
) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what cannot be loaded or run is raised
    options.intra_op_num_threads = threads or usable_processors()
    spin = _spins_briefly(onnxruntime.__version__)
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
    # onnxruntime would map the files into memory: whoever wrote over them would change or end this process.
    # An older one knows no other way.
    if weights and hasattr(options, "add_external_initializers_from_files_in_memory"):
        contents = list(weights.values())
        options.add_external_initializers_from_files_in_memory(
            [path.name for path in weights], contents, [len(content) for content in contents]
        )
    return options


def _spins_briefly(version: str) -> bool:
    """Does this onnxruntime keep to `SPIN`? Before 1.27 threads spin for milliseconds, or not at all."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= (1, 27)


def usable_processors() -> int:
    """Processors this process may use; 0, for onnxruntime's choice, where that is all there are.

    onnxruntime counts those of the machine. A container that may use two of 64 would start 64 threads, which
    wait for each other.
    """
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    usable = min(affinity, _quota())
    return usable if usable < machine else 0


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole processors, at least one, that a control group grants; very many where it sets no limit."""
    try:
        if (root / "cpu.max").exists():  # version 2
            granted, period = (root / "cpu.max").read_text().split()
        else:
            granted = (root / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        return max(1, int(granted) // int(period)) if int(granted) > 0 else 1 << 30
    except (OSError, ValueError, ZeroDivisionError):  # no limit is no number: "max"
        return 1 << 30


def _read_tokenizer(metadata: ArtifactMetadata, file: Path) -> tuple[Encoder, list[Ids]]:
    """The tokenizer, and what it makes of `_PROBE`."""
    try:
        encoder = Encoder(metadata.tokenizer, metadata.max_length, metadata.pad_token_id)
        return encoder, encoder.encode(_PROBE)
    # tokenizers raises bare Exception, or, on a panic of its native code, what is not even that.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{file}: metadata tokenizer: not readable ({_reason(error)}); export the model again"
        ) from None


def _check_graph(session: onnxruntime.InferenceSession, label_count: int, where: str) -> None:
    """Check that the graph's inputs and outputs are the design's."""
    inputs = {item.name: item.type for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    if set(inputs) != set(INPUTS) or not set(OUTPUTS) <= set(outputs):
        raise UserError(
            f"{where}: expected inputs {', '.join(INPUTS)} and outputs {', '.join(OUTPUTS)}; "
            f"found {', '.join(sorted(inputs))} and {', '.join(sorted(outputs))}"
        )
    for name, found, expected in [
        *((name, inputs[name], "tensor(int64)") for name in INPUTS),
        *((name, outputs[name].type, "tensor(float)") for name in OUTPUTS),
    ]:
        if found != expected:
            raise UserError(
                f"{where}: expected {name} to be {expected}, found {found}; export the model again"
            )
    for name in OUTPUTS:
        shape = outputs[name].shape
        if len(shape) != 2 or shape[1] != label_count:
            raise UserError(
                f"{where}: output {name} has shape {shape}, but the metadata names {label_count} "
                "labels; export the model again"
            )


def _check_outputs(model: LoadedModel, probe: Sequence[Ids]) -> None:
    """Check that the graph computes, and that what comes out is probabilities."""
    _, probabilities = model.run(probe)
    expected = (len(probe), len(model.metadata.labels))
    if probabilities.shape != expected or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise UserError(
            f"{model.file}: the graph does not give probabilities for {expected[0]} texts and {expected[1]} "
            "labels, perhaps it is damaged; copy or export it again"
        )


def _reason(error: BaseException) -> str:
    """What a native library says, in one short line, without its own prefix."""
    text = re.sub(r"\[ONNXRuntimeError\] : |Load model from .*? failed:", "", " ".join(str(error).split()))
    return text[:160] or type(error).__name__
