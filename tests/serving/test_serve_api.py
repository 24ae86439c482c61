"""The API of `afina serve` over real connections: answers, errors, limits, keys, headers."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from afina.runtime.classifier import Classifier
from afina.serving import schemas
from afina.serving.errors import ApiError
from afina.serving.metrics import Metrics
from afina.serving.middleware import Observe
from afina.serving.schemas import read_predict_request
from afina.serving.settings import ServeSettings
from live_server import JSON, Live, live
from toy_artifact import LABELS, write_toy

SECRET = "secreto-de-juana"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model.onnx", abstain_below=0.6, target_accuracy=0.9)


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[Live]:
    with live(model, max_texts=20, max_characters=500, max_request_bytes=20_000) as one:
        yield one


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(write_toy(tmp_path_factory.mktemp("toy") / "model.onnx", "multilabel")) as one:
        yield one


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which has the one form that all have."""
    body = answer.json()
    assert set(body) == {"error"}
    assert {"code", "message"} <= set(body["error"])
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    return dict(body["error"])


# ------------------------------------------------------------------------------------- answers


def test_a_single_text_gives_a_list_of_one(running: Live) -> None:
    answer = running.client.post("/v1/predict", json={"text": "agua agua luz", "top_k": 2}).json()

    assert answer["model"] == running.store.current.identity()
    assert re.fullmatch("[0-9a-f]{64}", answer["model"]["sha256"])
    # softmax(0, -1, -2) of the words counted
    (one,) = answer["predictions"]
    assert one == {
        "labels": [{"label": "agua", "probability": 0.665241}],
        "top": [{"label": "agua", "probability": 0.665241}, {"label": "luz", "probability": 0.244728}],
        "confidence": 0.665241,
        "needs_person": False,
        "truncated": False,
    }


def test_answers_come_in_the_order_of_the_texts(running: Live) -> None:
    texts = ["luz", "pagos pagos", "agua " * 9, "", "¿qué?"]
    expected = Classifier(running.settings.model).predict(texts)

    found = running.predict(*texts)

    assert [one["labels"][0]["label"] for one in found] == [one.label for one in expected]
    assert [one["confidence"] for one in found] == pytest.approx(
        [one.confidence for one in expected], abs=1e-5
    )
    assert [one["needs_person"] for one in found] == [one.confidence < 0.6 for one in expected]


def test_a_text_longer_than_the_model_reads_is_marked(running: Live) -> None:
    # 12 tokens with the two special ones
    found = running.predict("luz " * 10, "luz " * 11, "luz")

    assert [one["truncated"] for one in found] == [False, True, False]


def test_more_labels_than_there_are_means_all(running: Live) -> None:
    (one,) = running.predict("luz", top_k=50)

    assert sorted(score["label"] for score in one["top"]) == sorted(LABELS)


def test_multilabel_thresholds_can_be_given(multilabel: Live) -> None:
    # probabilities 0.5 for agua, 0.27 for luz, 0.12 for pagos; thresholds 0.5, 0.2, 0.9
    def labels(**options: Any) -> list[str]:
        (one,) = multilabel.predict("agua agua luz", **options)
        return [score["label"] for score in one["labels"]]

    assert labels() == ["agua", "luz"]
    assert labels(thresholds={"luz": 0.3}) == ["agua"]
    assert labels(thresholds={"pagos": 0.1, "agua": 0.6}) == ["luz", "pagos"]
    assert labels() == ["agua", "luz"]


def test_facts_of_the_model(running: Live) -> None:
    facts = running.client.get("/v1/model").json()

    assert facts["task"] == "multiclass"
    assert facts["labels"] == list(LABELS)
    assert facts["thresholds"] is None
    assert facts["max_length"] == 12
    assert facts["abstention"] == {"below": 0.6, "target_accuracy": 0.9}
    assert facts["metrics"] == {"test": {"macro_f1": 0.75}}
    assert facts["backbone"] == "toy"
    assert facts["backbone_licence"] == "none"
    assert facts["name"] == "model.onnx"


def test_a_limit_that_no_confidence_reaches_is_null(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "model.onnx", abstain_below=float("inf"), target_accuracy=0.9)
    with live(path, name="reclamos") as one:
        facts = one.client.get("/v1/model").json()

    assert facts["abstention"] == {"below": None, "target_accuracy": 0.9}
    assert facts["name"] == "reclamos"


def test_model_card(running: Live, model: Path) -> None:
    assert error_of(running.client.get("/model-card"))["code"] == "no_model_card"
    card = model.parent / "README.md"
    card.write_text("# Ficha <script>alert(1)</script>", encoding="utf-8")
    try:
        plain = running.client.get("/model-card")
        page = running.client.get("/model-card", headers={"accept": "text/html"})
    finally:
        card.unlink()

    assert plain.headers["content-type"].startswith("text/markdown")
    assert plain.text == "# Ficha <script>alert(1)</script>"
    assert page.headers["content-type"].startswith("text/html")
    assert "# Ficha &lt;script&gt;" in page.text


def test_health_and_readiness(running: Live) -> None:
    assert running.client.get("/healthz").json() == {"status": "ok"}
    assert running.client.get("/readyz").json() == {"status": "ready"}
    assert running.client.head("/healthz").status_code == 200


def test_metrics(model: Path) -> None:
    with live(model) as one:
        one.predict("agua agua agua", "luz", "pagos " * 20)
        one.client.get("/no/such")
        text = one.client.get("/metrics").text

    assert 'afina_requests_total{method="POST",route="/v1/predict",status="200"} 1.0' in text
    assert 'afina_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'afina_request_seconds_count{route="/v1/predict"} 1.0' in text
    assert 'afina_texts_total{label="agua"} 1.0' in text
    assert "afina_texts_needing_person_total 1.0" in text
    assert "afina_texts_truncated_total 1.0" in text
    assert "afina_batch_texts_sum 3.0" in text
    assert "afina_queue_texts 0.0" in text
    assert re.search(r'afina_model_info\{.*name="model.onnx".*\} 1.0', text)


def test_what_is_refused_before_its_route_is_counted_there(model: Path) -> None:
    with live(model, api_keys=("llave",), max_file_bytes=300_000) as one:
        post, key = one.client.post, {"x-api-key": "llave"}
        large = post("/v1/predict/file", files={"file": ("a.csv", b"a" * 500_000)}, headers=key)
        foreign = post("/v1/predict", headers={**key, "sec-fetch-site": "cross-site"})
        with httpx.Client(base_url=one.client.base_url) as stranger:
            unknown = [stranger.get(path) for path in ("/v1/model", "/no/such", "/v1/model/", "/static/a")]
        text = one.client.get("/metrics", headers=key).text

    assert [large.status_code, foreign.status_code] == [413, 403]
    assert [answer.status_code for answer in unknown] == [401, 401, 401, 404]
    for route, method, status, count in [
        ("/v1/predict/file", "POST", 413, 1),
        ("/v1/predict", "POST", 403, 1),
        ("/v1/model", "GET", 401, 1),
        ("other", "GET", 401, 2),
        ("/static", "GET", 404, 1),
    ]:
        line = f'afina_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}.0'
        assert line in text


def test_the_description_names_every_route_and_no_other_server(running: Live) -> None:
    schema = running.client.get("/openapi.json").json()
    docs = running.client.get("/docs")

    assert set(schema["paths"]) == {
        "/v1/predict", "/v1/predict/file", "/v1/model", "/model-card", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    for path in schema["paths"]:
        assert f" {path}</code>" in docs.text
    assert not re.findall(r"(?:src|href)=\"(?!/)", docs.text)
    assert "429" in schema["paths"]["/v1/predict"]["post"]["responses"]


# -------------------------------------------------------------------------------------- errors

WRONG = {
    "no JSON": (b'{"text": "' + SECRET.encode(), 400, "invalid_json"),
    "nothing": (b"", 400, "invalid_json"),
    "not UTF-8": (b'{"text": "\xff\xfe ' + SECRET.encode() + b'"}', 400, "invalid_json"),
    "deep": (b'{"texts": ' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "invalid_json"),
    "deeper in an object": (b'{"a":' * 3000 + b"1" + b"}" * 3000, 400, "invalid_json"),
    "half a character in UTF-8": (b'{"text": "\xed\xa0\xbd \\ud83d"}', 400, "invalid_json"),
    "half a character cut off": (b'{"text": "\\ud83d', 400, "invalid_json"),
    "half a character as a number": (b'{"texts": [["\\ud83d"]]}', 422, "invalid_request"),
    "half a character as a key": (b'{"text": "a", "\\ud83d": 1}', 422, "invalid_request"),
    "deep, with half a character": (b'["\\ud83d", ' + b"[" * 9000 + b"]" * 9001, 400, "invalid_json"),
    "half a character and too many": (
        b'{"texts": ["\\ud83d"' + b', "\\ud83d"' * 20 + b"]}", 413, "too_many_texts",
    ),
    "UTF-16": ('{"text": "\\ud83d"}'.encode("utf-16"), 400, "invalid_json"),
    "a list": (b'["secreto-de-juana"]', 422, "invalid_request"),
    "neither": (b"{}", 422, "invalid_request"),
    "both": (b'{"text": "a", "texts": ["b"]}', 422, "invalid_request"),
    "no texts": (b'{"texts": []}', 422, "invalid_request"),
    "a number": (b'{"text": 5}', 422, "invalid_request"),
    "null among texts": (b'{"texts": ["a", null]}', 422, "invalid_request"),
    "unknown key": (b'{"text": "a", "secreto-de-juana": 1}', 422, "invalid_request"),
    "top_k 0": (b'{"text": "a", "top_k": 0}', 422, "invalid_request"),
    "top_k a string": (b'{"text": "a", "top_k": "2"}', 422, "invalid_request"),
    "top_k huge": (b'{"text": "a", "top_k": ' + b"9" * 50 + b"}", 422, "invalid_request"),
    "top_k of 5,000 digits": (b'{"text": "a", "top_k": ' + b"9" * 5000 + b"}", 400, "invalid_json"),
    "thresholds of multiclass": (b'{"text": "a", "thresholds": {"agua": 0.5}}', 422, "invalid_request"),
    "too many": (json.dumps({"texts": ["a"] * 21}).encode(), 413, "too_many_texts"),
    "too long": (json.dumps({"texts": ["a", "a" * 501]}).encode(), 413, "text_too_long"),
    "too large": (b" " * 20_001, 413, "too_large"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_so(running: Live, case: str) -> None:
    body, status, code = WRONG[case]

    answer = running.client.post("/v1/predict", content=body, headers=JSON)

    assert (answer.status_code, error_of(answer)["code"]) == (status, code), answer.text


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        (r'"a", "luz luz \ud83d"', ["a", "luz luz \ufffd"]),
        (r'"\uDE00\ud83d\ud83d\ude00"', ["\ufffd\ufffd\U0001f600"]),
        (r'"\\ud83d\ude00"', ["\\ud83d\ufffd"]),
    ],
)
def test_half_a_character_is_read_as_a_mark(running: Live, texts: str, read: list[str]) -> None:
    body = f'{{"texts": [{texts}]}}'
    answer = running.client.post("/v1/predict", content=body, headers=JSON)

    asked = read_predict_request(body.encode(), running.settings, running.store.current)
    assert asked.all_texts() == read
    # In bulk the runtime reads them alike.
    expected = Classifier(running.settings.model).predict(json.loads(f"[{texts}]"))
    found = [one["labels"][0] for one in answer.json()["predictions"]]
    assert [one["label"] for one in found] == [one.label for one in expected]
    assert [one["probability"] for one in found] == pytest.approx(
        [one.confidence for one in expected], abs=1e-5
    )
    alone = running.client.post("/v1/predict", content=r'{"text": "luz luz \ud83d"}', headers=JSON)
    assert alone.json()["predictions"][0]["labels"][0]["label"] == "luz"


def test_a_byte_order_mark_before_json_is_no_part_of_it(running: Live) -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"text": "luz luz"}).encode()

    answer = running.client.post("/v1/predict", content=body, headers=JSON)

    assert answer.json()["predictions"] == running.predict("luz luz")
    assert running.client.post("/v1/predict", content=body[1:], headers=JSON).status_code == 400


MANY = {
    "numbers": (b'{"texts": [' + b"1," * 2_000_000 + b"1]}", 422),
    "lists": (b'{"texts": [' + b"[]," * 1_300_000 + b"[]]}", 422),
    "keys": (b"{" + b",".join(b'"k%d":1' % n for n in range(350_000)) + b"}", 422),
    "labels": (b'{"thresholds":{' + b",".join(b'"k%d":[]' % n for n in range(300_000)) + b"}}", 422),
    "one label": (b'{"text":"a","thresholds":{' + b",".join([b'"agua":[]'] * 380_000) + b"}}", 422),
    "texts": (b'{"texts": [' + b'"",' * 1_300_000 + b'""]}', 413),
}


@pytest.mark.parametrize("case", MANY)
def test_of_a_million_mistakes_the_first_is_enough(
    multilabel: Live, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, status = MANY[case]
    settings = ServeSettings(model=Path("m"))
    assert len(body) < settings.max_request_bytes
    original, collected = schemas._invalid, []

    def invalid(error: ValidationError) -> ApiError:
        collected.append(error.error_count())
        return original(error)

    monkeypatch.setattr(schemas, "_invalid", invalid)
    with pytest.raises(ApiError) as refused:
        read_predict_request(body, settings, multilabel.store.current)

    assert refused.value.status == status
    # Collecting them all took several seconds, in which the server answered nobody.
    assert sum(collected) <= 1


@pytest.mark.parametrize(
    "thresholds", [{"agua": 1.5}, {"agua": -0.1}, {"secreto-de-juana": 0.5}, {"agua": "0.5"}, [0.5]]
)
def test_wrong_thresholds(multilabel: Live, thresholds: Any) -> None:
    answer = multilabel.client.post("/v1/predict", json={"text": "a", "thresholds": thresholds})

    assert answer.status_code == 422
    assert "thresholds" in error_of(answer)["message"]


def test_the_message_names_the_place(running: Live) -> None:
    answer = running.client.post("/v1/predict", json={"texts": ["a", 7]})

    assert error_of(answer)["message"] == "texts[1]: input should be a valid string"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/predict", 405),
        ("DELETE", "/v1/model", 405),
        ("GET", "/v2/predict", 404),
        ("GET", "/v1/predict/", 404),
        ("POST", "/secreto-de-juana", 404),
        ("OPTIONS", "/v1/predict", 405),
        ("TRACE", "/v1/predict", 405),
    ],
)
def test_other_addresses_and_methods(running: Live, method: str, path: str, status: int) -> None:
    answer = running.client.request(method, path)

    assert answer.status_code == status
    error_of(answer)
    assert status != 405 or "allow" in answer.headers


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_another_content_type_is_refused(running: Live, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}

    answer = running.client.post("/v1/predict", content=b'{"text": "a"}', headers=headers)

    assert answer.status_code == 415
    assert error_of(answer)["code"] == "unsupported_media_type"


def test_chunks_beyond_the_limit_are_refused(running: Live) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 1000

    answer = running.client.post("/v1/predict", content=body(), headers=JSON)

    assert answer.status_code == 413
    assert error_of(answer)["code"] == "too_large"


def test_a_declared_length_beyond_the_limit_is_refused_before_the_body(running: Live) -> None:
    with running.connect() as one:
        one.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 999999999999\r\n\r\n"
        )
        assert one.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("digits", "status"), [(b"0" * 5000 + b"2", 422), (b"9" * 5000, 400), (b"9" * 19, 413)]
)
def test_a_declared_length_of_many_digits(running: Live, digits: bytes, status: int) -> None:
    with running.connect() as one:
        one.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: " + digits + b"\r\n\r\n{}"
        )
        assert raw_status(one) == status


UPGRADE = (
    b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
)
CLOSED = b"GET /closed HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"  # a 404


def all_statuses(one: socket.socket) -> list[int]:
    answers = one.makefile("rb").read()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


@pytest.mark.parametrize("packets", [1, 2, 3])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"text": "no hay agua"}', 200), (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", 400)],
)
def test_a_wish_for_another_protocol_is_passed_over(
    running: Live, body: bytes, status: int, chunked: bool, packets: int
) -> None:
    head = UPGRADE + b"content-length: %d\r\n\r\n" % len(body)
    if chunked:
        head = UPGRADE + b"transfer-encoding: chunked\r\n\r\n"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    whole = head + body + CLOSED
    cuts = {1: [len(whole)], 2: [len(head), len(whole)], 3: [40, len(head) + 5, len(whole)]}[packets]
    with running.connect() as one:
        for start, end in pairwise([0, *cuts]):
            one.sendall(whole[start:end])
            time.sleep(0.1)
        assert all_statuses(one) == [status, 404]


def test_many_wishes_for_another_protocol_in_one_packet(running: Live) -> None:
    wish = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    with running.connect() as one:
        one.sendall(wish * 500 + CLOSED)
        assert all_statuses(one) == [200] * 500 + [404]


@pytest.mark.parametrize("address", [b"/healthz", b"localhost:443"])
def test_what_follows_the_wish_for_a_tunnel_is_no_request(running: Live, address: bytes) -> None:
    with running.connect() as one:
        one.sendall(
            b"CONNECT %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (address, len(CLOSED))
            + CLOSED
        )
        assert all_statuses(one) == [400]


def test_a_failure_says_nothing_of_the_text(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with live(model) as one:

        def fail(batch: Any) -> Any:
            raise ValueError(SECRET)

        one.store.current.classifier.forward = fail  # type: ignore[method-assign]
        answer = one.client.post("/v1/predict", json={"text": SECRET})
        after = one.client.get("/healthz").status_code

    assert answer.status_code == 500
    assert error_of(answer)["code"] == "internal_error"
    assert after == 200
    assert SECRET not in caplog.text
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.fields["error"].startswith("ValueError at ")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("ended", "status"), [(True, "200"), (False, "499")])
def test_an_answer_without_its_end_is_no_success(
    ended: bool, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that closes its connection while rows are sent: the application stops, and says no more."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        if ended:
            await send({"type": "http.response.body", "body": b"two"})

    async def nothing(message: Any = None) -> Any:
        return {"type": "http.disconnect"}

    metrics = Metrics(lambda: 0.0)
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    with caplog.at_level("INFO"):
        asyncio.run(Observe(app, metrics, ["/x"])(scope, nothing, nothing))
    assert f'status="{status}"}} 1.0' in metrics.text().decode()
    (record,) = [record for record in caplog.records if hasattr(record, "fields")]
    assert record.fields["status"] == int(status)


# ---------------------------------------------------------------------- keys, headers, origins


@pytest.fixture(scope="module")
def guarded(model: Path) -> Iterator[Live]:
    with live(model, api_keys=("llave-1", "llave-2")) as one:
        yield one


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "llave-1"}, 200),
        ({"x-api-key": "llave-2"}, 200),
        ({"x-api-key": "llave-3"}, 401),
        ({"x-api-key": "llave-"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "ñandú".encode().decode("latin-1")}, 401),
        ({"authorization": "Bearer llave-2"}, 200),
        ({"authorization": "bearer llave-2"}, 200),
        ({"authorization": "Basic llave-2"}, 401),
        ({"authorization": "llave-2"}, 401),
    ],
)
def test_keys(guarded: Live, headers: dict[str, str], status: int) -> None:
    with httpx.Client(base_url=guarded.client.base_url) as stranger:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = stranger.post("/v1/predict", json={"text": "luz"}, headers=raw)

    assert answer.status_code == status
    if status == 401:
        assert error_of(answer)["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_what_is_open_without_a_key(guarded: Live) -> None:
    with httpx.Client(base_url=guarded.client.base_url) as stranger:
        statuses = {
            path: stranger.get(path).status_code
            for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/static/none",
                         "/v1/model", "/metrics", "/model-card", "/other", "/static/../v1/model")
        }  # fmt: skip

    assert statuses == {
        "/healthz": 200, "/readyz": 200, "/docs": 200, "/openapi.json": 200, "/static/none": 404,
        "/v1/model": 401, "/metrics": 401, "/model-card": 401, "/other": 401, "/static/../v1/model": 401,
    }  # fmt: skip


def test_a_key_is_asked_for_before_the_body(guarded: Live) -> None:
    with guarded.connect() as one:
        one.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 1000\r\nexpect: 100-continue\r\n\r\n"
        )
        assert one.recv(4096).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/v1/model", "/no/such", "/static/no"])
def test_headers_of_every_answer(running: Live, path: str) -> None:
    headers = running.client.get(path).headers

    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_other_origins_only_where_allowed(model: Path) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with live(model, cors_origins=("https://a.example",), api_keys=("k",)) as one:
        preflight = one.client.options("/v1/predict", headers=asked)
        stranger = one.client.options("/v1/predict", headers={**asked, "origin": "https://b.example"})
        answer = one.client.get("/v1/model", headers={"origin": "https://a.example"})

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert stranger.status_code == 400
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_a_refusal_of_the_size_can_be_read_by_an_allowed_origin(model: Path) -> None:
    with live(model, cors_origins=("https://A.example:443/",), max_request_bytes=1024) as one:
        large = one.client.post(
            "/v1/predict", content=b" " * 2000, headers={**JSON, "origin": "https://a.example"}
        )

    assert large.status_code == 413
    assert large.headers["access-control-allow-origin"] == "https://a.example"


OWN = "http://127.0.0.1:{port}"
PAGES: list[tuple[dict[str, str], int]] = [
    ({}, 200),
    ({"origin": OWN, "sec-fetch-site": "same-origin"}, 200),
    ({"origin": OWN}, 200),
    ({"origin": "https://a.example", "sec-fetch-site": "cross-site"}, 200),
    ({"origin": "https://afina.example:8443"}, 200),
    ({"host": "afina.example", "origin": "https://afina.example"}, 200),
    ({"origin": "https://proxied.example", "sec-fetch-site": "same-origin"}, 200),
    ({"sec-fetch-site": "none"}, 200),
    ({"origin": "https://b.example", "sec-fetch-site": "cross-site"}, 403),
    ({"origin": "https://b.example"}, 403),
    ({"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"}, 403),
    ({"origin": "http://127.0.0.1:1"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": "http://["}, 403),
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"host": "b.example", "origin": "http://b.example"}, 403),
]


@pytest.mark.parametrize("kind", ["text", "file"])
@pytest.mark.parametrize(("headers", "status"), PAGES)
def test_pages_of_others_cannot_ask(strict: Live, headers: dict[str, str], status: int, kind: str) -> None:
    sent = {name: value.replace("{port}", str(strict.port)) for name, value in headers.items()}
    if kind == "text":
        answer = strict.client.post("/v1/predict", json={"text": "luz"}, headers=sent)
    else:
        answer = strict.client.post("/v1/predict/file", files={"file": ("a.csv", b"a\nb\n")}, headers=sent)

    assert answer.status_code == status, answer.text
    if status == 403:
        assert "--allowed-host" in error_of(answer)["message"]


@pytest.fixture(scope="module")
def strict(model: Path) -> Iterator[Live]:
    with live(model, cors_origins=("https://a.example",), allowed_hosts=("Afina.example",)) as one:
        yield one


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("localhost.", 200),
     ("b.example", 403), ("localhost.b.example", 403), ("127.0.0.1.b.example:8000", 403), ("10.0.0.1", 403)],
)  # fmt: skip
def test_on_loopback_only_its_names_are_answered(running: Live, host: str, status: int) -> None:
    for path in ("/v1/model", "/", "/metrics"):
        assert running.client.get(path, headers={"host": host}).status_code == status
    assert running.client.get("/healthz", headers={"host": host}).status_code == 200


def test_elsewhere_any_name_is_answered(model: Path) -> None:
    with live(model, host="0.0.0.0") as one:
        found = one.client.post("/v1/predict", json={"text": "a"}, headers={"host": "b.example"})
        foreign = one.client.post("/v1/predict", json={"text": "a"}, headers={"origin": "http://b.example"})

    assert (found.status_code, foreign.status_code) == (200, 403)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/....//app.py",
        "/static//etc/passwd",
        "/static/%2fetc/passwd",
        "/static/..%5capp.py",
        "/static/%00",
        "/static/" + "a" * 5000,
        "/../../etc/passwd",
    ],
)
def test_nothing_outside_the_pages_folder_is_served(running: Live, path: str) -> None:
    with running.connect() as one:
        one.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        answer = one.makefile("rb").read()

    assert answer.split(b" ")[1] in (b"400", b"404"), answer[:200]


# ---------------------------------------------------------------------------------------- fuzz


def raw_status(one: socket.socket) -> int:
    head = one.recv(4096)
    return int(head.split(b" ")[1]) if head.startswith(b"HTTP/1.1 ") else 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300))
def test_any_bytes_as_a_body_are_the_clients_fault(running: Live, body: bytes) -> None:
    answer = running.client.post("/v1/predict", content=body, headers=JSON)

    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"error"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=JSON_VALUES
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("text", "texts", "top_k", "thresholds", "x"), JSON_VALUES)
    )
)
def test_any_json_is_answered_or_the_clients_fault(running: Live, value: Any) -> None:
    answer = running.client.post("/v1/predict", content=json.dumps(value).encode(), headers=JSON)

    assert answer.status_code == 200 or 400 <= answer.status_code < 500
    assert set(answer.json()) in ({"error"}, {"model", "predictions"})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=200))
def test_any_bytes_instead_of_http_leave_the_server_alive(running: Live, data: bytes) -> None:
    with running.connect() as one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        assert raw_status(one) in (0, 400, 404, 405, 431)

    assert running.client.get("/healthz").status_code == 200


def test_endless_headers_are_refused(running: Live) -> None:
    with running.connect() as one:
        one.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n" + (b"x-a: " + b"b" * 1000 + b"\r\n") * 34)
        status = raw_status(one)

    assert status == 431


@pytest.mark.parametrize("size", [31_000, 33_000, 60_000])
@pytest.mark.parametrize("long", ["header", "headers", "path", "query"])
def test_long_headers_are_refused_in_one_read_too(running: Live, long: str, size: int) -> None:
    path = {"path": b"/" + b"a" * size, "query": b"/healthz?" + b"a" * size}.get(long, b"/healthz")
    lines = {"header": b"x-a: " + b"b" * size + b"\r\n", "headers": b"x-a: bbb\r\n" * (size // 10)}.get(
        long, b""
    )
    with running.connect() as one:
        # Whole, so that headers and the end of them come in one read.
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: localhost\r\n" + lines + b"\r\n")
        status = raw_status(one)

    assert status == (431 if size > 32_768 else 404 if long == "path" else 200)


def pipelined(body: bytes, next_request: bytes) -> bytes:
    """A request whose answer is 200, and what follows it."""
    return (
        b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b%b" % (len(body), body, next_request)
    )


def receive_until(one: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data and (part := one.recv(65536)):
        data += part
    return data


def test_a_body_is_not_counted_as_headers_of_the_next_request(model: Path) -> None:
    body = b'{"text": "luz"' + b" " * 39_600 + b"}"
    with live(model) as one, one.connect() as client:
        client.sendall(pipelined(body, b"GET /healthz HTTP/1.1\r\nhost: loc"))
        first = receive_until(client, b'"predictions"')
        client.sendall(b"alhost\r\n\r\n")
        second = receive_until(client, b'{"status":"ok"}')

    assert first.startswith(b"HTTP/1.1 200")
    assert b'"label":"luz"' in first
    assert second.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("part", "count"), [(b"x-a: bbbb\r\n" * 100, 30), (b"x" * 1000, 33)])
def test_endless_headers_of_the_next_request_are_refused(model: Path, part: bytes, count: int) -> None:
    with live(model) as one, one.connect() as client:
        client.sendall(pipelined(b'{"text": "luz"}', b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"))
        first = receive_until(client, b'"predictions"')
        for _ in range(count):  # the last is the first beyond the limit
            client.sendall(part)
        second = receive_until(client, b"headers_too_large")

    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith(b"HTTP/1.1 431")


def test_endless_trailers_are_cut_off(running: Live) -> None:
    with running.connect() as one:
        one.sendall(
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        )
        with pytest.raises((ConnectionError, TimeoutError)):
            one.sendall((b"x-a: " + b"b" * 1000 + b"\r\n") * 20_000)
    assert running.client.get("/healthz").status_code == 200
