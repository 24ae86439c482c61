"""The file in onnxruntime's C API, as programs in C, C++, Rust or Go use it: the same probabilities."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest

from afina.runtime.classifier import Classifier
from afina.runtime.encoding import Ids, pad_batch
from toy_artifact import LABELS, write_toy

# Places of functions in the struct OrtApi of onnxruntime_c_api.h, where no version may move them.
API_VERSION = 1
ERROR_MESSAGE, CREATE_ENV, CREATE_SESSION, RUN, CREATE_OPTIONS = 2, 3, 7, 9, 10
CREATE_TENSOR, TENSOR_DATA, CREATE_MEMORY_INFO = 49, 51, 69
INT64, ARENA, CPU, WARNING = 7, 1, 0, 2
Pointer = ctypes.c_void_p
TEXTS = ["agua agua luz", "", "luz", "pagos pagos agua luz pagos"]
ROOT = Path(__file__).resolve().parents[2]


class CApi:
    """A few of the functions; an error of one is an exception with what it says."""

    def __init__(self, library: Path) -> None:
        base = ctypes.CDLL(str(library)).OrtGetApiBase
        base.restype = ctypes.POINTER(Pointer)
        get_api = ctypes.CFUNCTYPE(ctypes.POINTER(Pointer), ctypes.c_uint32)(base()[0])
        self._functions = get_api(API_VERSION)

    def call(self, place: int, *arguments: Any) -> None:
        """Call a function that returns a status."""
        function = ctypes.CFUNCTYPE(Pointer, *map(type, arguments))(self._functions[place])
        status = function(*arguments)
        if status:
            message = ctypes.CFUNCTYPE(ctypes.c_char_p, Pointer)(self._functions[ERROR_MESSAGE])
            raise RuntimeError(message(Pointer(status)).decode())

    def made(self, place: int, *arguments: Any) -> Pointer:
        """What a function makes, its last argument being where it puts it."""
        result = Pointer()
        self.call(place, *arguments, ctypes.pointer(result))
        return result


@pytest.fixture(scope="module")
def api() -> CApi:
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("onnxruntime's wheel has no shared library for Linux here")
    return CApi(found[0])


def probabilities(api: CApi, model: Path, ids: Sequence[Ids], labels: int) -> np.ndarray:
    """Those of a batch (n, labels), by the C API alone."""
    environment = api.made(CREATE_ENV, ctypes.c_int(WARNING), ctypes.c_char_p(b"test"))
    options = api.made(CREATE_OPTIONS)
    session = api.made(CREATE_SESSION, environment, ctypes.c_char_p(bytes(model)), options)
    memory = api.made(CREATE_MEMORY_INFO, ctypes.c_int(ARENA), ctypes.c_int(CPU))
    arrays = [np.ascontiguousarray(array) for array in pad_batch(ids, 0)]
    shapes = [np.array(array.shape, dtype=np.int64) for array in arrays]
    tensors = [
        api.made(
            CREATE_TENSOR,
            memory,
            Pointer(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            Pointer(shape.ctypes.data),
            ctypes.c_size_t(len(shape)),
            ctypes.c_int(INT64),
        )
        for array, shape in zip(arrays, shapes, strict=True)
    ]
    answer = (Pointer * 1)()
    api.call(
        RUN,
        session,
        Pointer(),
        ctypes.pointer((ctypes.c_char_p * 2)(b"input_ids", b"attention_mask")),
        ctypes.pointer((Pointer * 2)(*tensors)),
        ctypes.c_size_t(2),
        ctypes.pointer((ctypes.c_char_p * 1)(b"probabilities")),
        ctypes.c_size_t(1),
        ctypes.pointer(answer),
    )
    data = api.made(TENSOR_DATA, Pointer(answer[0]))
    values = ctypes.cast(data, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(values, (len(ids), labels)).copy()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_toy_model_gives_the_same_probabilities(
    task: Literal["multiclass", "multilabel"], api: CApi, tmp_path: Path
) -> None:
    model = write_toy(tmp_path / "model.onnx", task)
    classifier = Classifier(model)
    found = probabilities(api, model, classifier.encode(TEXTS), len(LABELS))
    np.testing.assert_allclose(found, classifier.predict_proba(TEXTS), atol=1e-6)
    assert len(set(found[:, 0].tolist())) > 1


@pytest.mark.demo
@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_the_demo_gives_the_same_probabilities(name: str, api: CApi) -> None:
    model = ROOT / "models" / "onnx" / name
    if not model.is_file():
        pytest.skip(f"{model} is absent: run `dvc repro`")
    classifier = Classifier(model)
    ids = classifier.encode(["¿Cuándo pagan la pensión de agosto?", "No puedo entrar con mi clave"])
    expected = classifier.forward(ids)[1]
    assert classifier.metadata.pad_token_id == 0
    np.testing.assert_allclose(probabilities(api, model, ids, len(classifier.labels)), expected, atol=1e-5)


def test_a_file_that_is_no_model_is_told(api: CApi, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match=r"model\.onnx"):
        probabilities(api, tmp_path / "model.onnx", [np.array([1])], 3)
