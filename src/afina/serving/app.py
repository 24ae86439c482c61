"""The application: routes and what is around them."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from afina import __version__
from afina.errors import UserError
from afina.serving.answers import CsvForm, TableAnswer
from afina.serving.csv_text import plain_name
from afina.serving.errors import ApiError
from afina.serving.hangup import hangup_came
from afina.serving.logs import flush_logs
from afina.serving.metrics import CONTENT_TYPE
from afina.serving.middleware import Authorize, Limit, Observe
from afina.serving.model import ModelStore
from afina.serving.origins import CheckOrigin
from afina.serving.pages import CSS, api_page, card_page
from afina.serving.schemas import (
    MAX_TOP_K,
    ErrorAnswer,
    ModelAnswer,
    PredictAnswer,
    PredictRequest,
    predictions_json,
    read_predict_request,
)
from afina.serving.service import ClientGoneError, Service
from afina.serving.settings import ServeSettings
from afina.serving.upload import MAX_COLUMNS, Column, Table, kind_of, read_csv
from afina.serving.workbook import workbook_to_csv

STATIC = Path(__file__).parent / "static"
# By name too: curl -F takes what follows a semicolon for something else.
DELIMITERS = {",": ",", "comma": ",", ";": ";", "semicolon": ";", "tab": "\t"}

log = logging.getLogger("afina.serve")

_DESCRIPTION = (
    "Classifies texts with one model.onnx. Texts are neither stored nor logged. Where the server asks for a "
    "key, send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
)
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "Not readable: no JSON, a damaged file, no column."},
    401: {"description": "No key, or a wrong one."},
    403: {"description": "A page of another site asked, or by a name that is not the server's."},
    408: {"description": "The request did not arrive in time, or gave way to others as it arrived slowly."},
    413: {"description": "Beyond a limit: bytes, texts, characters, rows."},
    415: {"description": "Another content type or kind of file."},
    422: {"description": "JSON of another form."},
    429: {"description": "Too many texts or files at a time; Retry-After says for how many seconds to wait."},
    500: {"description": "The server failed; its log says where."},
    503: {"description": "No answer in time, no room for a file, or the server is about to end."},
}
_FILE_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": ".csv, .tsv or .xlsx, with a header."},
        "column": {"type": "string", "description": "The column with the texts; by default it is found."},
        "column_index": {"type": "integer", "description": "Its position instead of its name, from 0."},
        "top_k": {"type": "integer", "description": "Above 1: columns for the most probable labels."},
        "bom": {"type": "boolean", "description": "Begin with a byte order mark, as Excel needs for UTF-8."},
        "delimiter": {"type": "string", "description": "Of the answer: comma (default), semicolon or tab."},
    },
}


def create_app(settings: ServeSettings, store: ModelStore | None = None) -> ASGIApp:
    """The application for an ASGI server.

    Raises:
        UserError: the model cannot be used.
    """
    if store is None:
        store = ModelStore(settings.model, settings.name, settings.threads, settings.token_budget)
    service = Service(settings, store)
    # It prints bytes of the body that it stumbles over.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)
    app = FastAPI(
        title="afina",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(service),
    )
    app.state.service = service
    _add_errors(app)
    _add_predictions(app, service)
    _add_information(app, service)
    _add_pages(app, service)
    inner: ASGIApp = Limit(CheckOrigin(Authorize(app, settings.api_keys), settings), settings)
    if settings.cors_origins:
        # Around the rest, so that a script of theirs can read why it was refused.
        inner = CORSMiddleware(
            inner,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["Retry-After", "X-Column", "X-Rows"],
        )
    return Observe(inner, service.metrics, [route.path for route in app.routes if isinstance(route, Route)])


# ------------------------------------------------------------------------------- start and end


def _lifespan(service: Service) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        wanted = asyncio.Event()
        async with AsyncExitStack() as stack:
            # At the very end: the signal that ended uvicorn then ends the process, before anybody else could.
            stack.callback(flush_logs)
            # Signals reach the main thread alone; a server in another one has the watch for changes.
            if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, wanted.set)
                stack.callback(loop.remove_signal_handler, signal.SIGHUP)
                if hangup_came():
                    wanted.set()
            service.batcher.start()
            stack.push_async_callback(service.stop)
            reloads = asyncio.create_task(_reload(service, wanted))
            stack.callback(reloads.cancel)
            yield
            log.info("ending")

    return lifespan


async def _reload(service: Service, wanted: asyncio.Event) -> None:
    """Load the model's file anew when it changed or a signal asked for it."""
    every = service.settings.reload_seconds or None
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(wanted.wait(), every)
        if not wanted.is_set() and not service.store.changed():
            continue
        wanted.clear()
        try:
            served = await service.reload()
        except Exception as error:
            service.metrics.reload("failed")
            reason = str(error) if isinstance(error, UserError) else type(error).__name__
            log.error("reload_failed", extra={"fields": {"reason": reason}})
        else:
            service.metrics.reload("ok")
            log.info("reloaded", extra={"fields": served.identity()})


# -------------------------------------------------------------------------------------- errors


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return ApiError.of_status(error.status_code, error.headers).response()

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(ClientGoneError)
    async def nobody_there(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return ApiError.of_status(500).response()


# --------------------------------------------------------------------------------- predictions


class _PlainRoute(APIRoute):
    """A route whose function takes the request itself and returns the response.

    FastAPI looks for parameters in each request, which takes longer than to read a short one.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def _add_predictions(app: FastAPI, service: Service) -> None:
    settings, store = service.settings, service.store
    csv_content: dict[str, Any] = {"text/csv": {}}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, **answer} for status, answer in _ERRORS.items()
    }

    async def predict(request: Request) -> Response:
        """Classify one text, or several. A list of predictions comes back in the order of the texts."""
        _expect_content(request, "application/json")
        with service.bodies.reading() as reading:
            body = await service.read_body(request, reading)
            # One model from here on, though a new one may come meanwhile.
            model = store.current
            asked = read_predict_request(body, settings, model)
            texts = asked.all_texts()
            request.state.log = {"texts": len(texts)}
            async with service.gone_watch(request.receive) as gone:
                predictions, truncated = await service.predict(
                    model, texts, asked.top_k, gone, asked.thresholds
                )
        return _json({"model": model.identity(), "predictions": predictions_json(predictions, truncated)})

    app.router.add_api_route(
        "/v1/predict",
        predict,
        methods=["POST"],
        response_model=PredictAnswer,
        responses=errors,
        openapi_extra=_json_body(PredictRequest.model_json_schema(), {"texts": ["…", "…"], "top_k": 3}),
        route_class_override=_PlainRoute,
    )

    @app.post(
        "/v1/predict/file",
        response_class=Response,
        responses={**errors, 200: {"description": "The table with its predictions.", "content": csv_content}},
        openapi_extra={
            "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FILE_FORM}}}
        },
    )
    async def predict_file(request: Request) -> Response:
        """Classify the rows of a CSV or Excel file.

        The answer is CSV in UTF-8: the columns of the file, then label, probability, confidence and
        needs_person (with top_k above 1 also label_1, probability_1 …). Where the file has one of these
        names, all of them begin with predicted_. Cells that a spreadsheet would run as a formula begin with
        an apostrophe. The header X-Rows says how many rows there will be; an answer that breaks off was
        not finished. X-Column names the column whose texts were read: the first 100 characters of its
        name, percent-encoded UTF-8.
        """
        _expect_content(request, "multipart/form-data")
        try:
            return await _table_answer(service, request)
        except OSError as error:
            # Most often the system's temporary folder is full. The file itself may well be sound.
            log.error("upload_failed", extra={"fields": {"reason": error.strerror or type(error).__name__}})
            raise ApiError(503, "no_room", "the server has no room for the file; try again later") from None


async def _table_answer(service: Service, request: Request) -> TableAnswer:
    with ExitStack() as stack:
        csv_form, column, upload = await _arrived(service, request, stack)
        async with service.gone_watch(request.receive) as gone:
            table = await service.unless_gone(_read_table(service, upload, column), gone)
        stack.callback(table.close)
        request.state.log = {"texts": table.rows}
        return TableAnswer(service, service.store.current, table, csv_form, stack.pop_all().close)


async def _arrived(
    service: Service, request: Request, stack: ExitStack
) -> tuple[CsvForm, Column, UploadFile]:
    """A form with a file once all of it is there and it is its turn, which ends when the stack is closed."""
    arrivals = service.arrivals
    reading = arrivals.reading(stack)
    counted = Request(request.scope, reading.counted(request.receive))
    try:
        form = await counted.form(max_files=1, max_fields=8, max_part_size=1 << 14)
    except UnicodeError:  # the codec "undefined" reads nothing
        problem = "Content-Type: no text can be read in this charset; leave it out"
        raise ApiError(400, "bad_request", problem) from None
    csv_form, column, upload = _file_form(form)
    stack.callback(upload.file.close)
    async with service.gone_watch(request.receive) as gone:
        await service.unless_gone(arrivals.turn(reading, stack), gone)
    return csv_form, column, upload


async def _read_table(service: Service, upload: UploadFile, column: Column) -> Table:
    settings = service.settings
    kind = kind_of(upload.file, upload.filename or "")
    stream: IO[bytes] = upload.file
    delimiter = "\t" if kind == "tsv" else None
    unsaved: dict[int, str] = {}
    if kind == "xlsx":
        stream, unsaved = await workbook_to_csv(
            upload.file, settings.max_inflated_bytes, settings.max_rows, MAX_COLUMNS
        )
        delimiter = ","
    try:
        return await service.in_file_thread(
            read_csv, stream, delimiter, column, settings, kind == "xlsx", unsaved
        )
    except BaseException:
        stream.close()
        raise


def _file_form(form: FormData) -> tuple[CsvForm, Column, UploadFile]:
    """Check the fields of the form that came with a file."""
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise ApiError(422, "invalid_request", "file: expected a file in a form field of this name")
    try:
        given = {name: value for name, value in form.items() if isinstance(value, str)}
        known = list(_FILE_FORM["properties"])
        if not given.keys() <= set(known):
            raise ApiError(422, "invalid_request", f"unknown field; known: {', '.join(known)}")
        return _csv_form(given), _wanted_column(given), upload
    except ApiError:
        upload.file.close()
        raise


def _csv_form(given: dict[str, str]) -> CsvForm:
    top_k, bom, delimiter = given.get("top_k", "1"), given.get("bom", "false"), given.get("delimiter", ",")
    number = _number(top_k)
    problem = None
    if number is None or not 1 <= number <= MAX_TOP_K:
        problem = f"top_k: expected a number from 1 to {MAX_TOP_K}"
    elif bom not in ("true", "false"):
        problem = "bom: expected true or false"
    elif delimiter not in DELIMITERS:
        problem = "delimiter: expected comma, semicolon or tab"
    if number is None or problem is not None:
        raise ApiError(422, "invalid_request", str(problem))
    return CsvForm(number, bom == "true", DELIMITERS[delimiter])


def _wanted_column(given: dict[str, str]) -> Column:
    name, index = given.get("column"), given.get("column_index")
    if not index:
        return Column(plain_name(name)) if name else Column()
    if name:
        raise ApiError(422, "invalid_request", "give either column or column_index")
    number = _number(index)
    if number is None:
        raise ApiError(422, "invalid_request", "column_index: expected a position, 0 for the first column")
    return Column(index=number)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else None


def _expect_content(request: Request, wanted: str) -> None:
    """Refuse other content types; that of JSON is one which a foreign web page cannot send unasked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != wanted:
        raise ApiError(415, "unsupported_media_type", f"expected Content-Type: {wanted}")


def _json_body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _json(value: Any) -> Response:
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


# -------------------------------------------------------------------------------- information


def _add_information(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", response_model=ModelAnswer)
    async def model() -> Response:
        """What there is to know about the model in use."""
        return _json(service.store.current.facts())

    @app.get("/model-card", response_class=PlainTextResponse)
    def model_card(request: Request) -> Response:
        """The model card, README.md beside the model: Markdown, or a page for a browser."""
        try:
            text = (service.store.path.parent / "README.md").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise ApiError(404, "no_model_card", "there is no README.md beside the model") from None
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(card_page(text))
        return PlainTextResponse(text, media_type="text/markdown")

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> Response:
        """The process lives."""
        return _json({"status": "ok"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def readyz() -> Response:
        """The model is loaded and the queue has room; else 503."""
        if not service.batcher.accepting:
            raise ApiError(503, "not_ready", "the queue is full or the server is about to end")
        return _json({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


# -------------------------------------------------------------------------------------- pages


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        if not (STATIC / "index.html").is_file():
            raise ApiError.of_status(404)
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(api_page(app.openapi()))

    @app.get("/docs.css", include_in_schema=False)
    async def docs_css() -> Response:
        return Response(CSS, media_type="text/css")

    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")
