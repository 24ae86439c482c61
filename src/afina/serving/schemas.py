"""What requests and answers look like, and how a request is read and checked."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from afina.runtime.classifier import Prediction, Score
from afina.runtime.text import clean_text
from afina.serving.errors import ApiError
from afina.serving.model import Served
from afina.serving.settings import ServeSettings

MAX_TOP_K = 10_000

# Of the two escapes that make up a character beyond U+FFFF.
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")

Text = Annotated[str, StringConstraints(strict=True)]


class PredictRequest(BaseModel):
    """One text, or several: exactly one of `text` and `texts`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text | None = Field(None, description="One text.")
    # An error for each of a million numbers would take gigabytes; the first one says enough.
    texts: list[Text] | None = Field(None, min_length=1, fail_fast=True, description="Several texts.")
    top_k: int = Field(1, ge=1, le=MAX_TOP_K, description="How many of the most probable labels to list.")
    thresholds: dict[str, float] | None = Field(
        None, description="Lowest probability that assigns a label, where it shall differ from the model's; "
        "multilabel models only.",
    )  # fmt: skip

    def all_texts(self) -> list[str]:
        """The texts, whichever way they were given."""
        return [self.text] if self.text is not None else list(self.texts or [])


class LabelScore(BaseModel):
    """A label and its probability."""

    label: str
    probability: float


class PredictionAnswer(BaseModel):
    """What the model says about one text."""

    labels: list[LabelScore] = Field(description="Labels assigned, most probable first; perhaps none.")
    top: list[LabelScore] = Field(description="The `top_k` most probable labels, assigned or not.")
    confidence: float = Field(description="Probability of the decision.")
    needs_person: bool = Field(description="The model is not sure enough; a person should look.")
    truncated: bool = Field(description="The text was longer than the model reads; the rest was left out.")


class ModelIdentity(BaseModel):
    """The model that answered."""

    name: str
    precision: str
    sha256: str


class PredictAnswer(BaseModel):
    """One prediction a text, in the order of the texts."""

    model: ModelIdentity
    predictions: list[PredictionAnswer]


class Abstention(BaseModel):
    """When a text is for a person."""

    below: float | None = Field(description="Confidence below which a text is for a person; null: all are.")
    target_accuracy: float | None = Field(description="How often the other answers were to be right.")


class ModelAnswer(ModelIdentity):
    """What there is to know about the model."""

    task: str = Field(description="multiclass or multilabel.")
    labels: list[str]
    thresholds: dict[str, float] | None = Field(description="multilabel: lowest probability that assigns.")
    max_length: int = Field(description="Longest text in tokens; the rest is left out.")
    abstention: Abstention | None = Field(description="null: the model was made without a limit.")
    metrics: dict[str, Any] = Field(description="Headline metrics on test texts.")
    backbone: str
    backbone_licence: str
    training_data_sha256: str
    afina_version: str


class ErrorDetail(BaseModel):
    """What is wrong: a code for programs, a sentence for people."""

    code: str
    message: str
    columns: list[str] | None = Field(None, description="Only for column_needed: the columns to choose from.")


class ErrorAnswer(BaseModel):
    """The form of every error."""

    error: ErrorDetail


def read_predict_request(body: bytes, settings: ServeSettings, model: Served) -> PredictRequest:
    """Parse and check a request's JSON; messages name the place, never what stands there.

    Raises:
        ApiError: 400 no JSON, 413 beyond a limit, 422 anything else that is wrong with it.
    """
    try:
        value = _parsed(body.removeprefix(codecs.BOM_UTF8), settings)
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is not valid JSON in UTF-8") from None
    _check_keys(value, model)
    try:
        request = PredictRequest.model_validate(value)
    except ValidationError as error:
        raise _invalid(error) from None
    if (request.text is None) == (request.texts is None):
        raise ApiError(422, "invalid_request", "give either text or texts")
    texts = request.all_texts()
    _check_count(len(texts), settings)
    for position, text in enumerate(texts):
        if len(text) > settings.max_characters:
            raise ApiError(
                413,
                "text_too_long",
                f"texts[{position}]: {len(text)} characters; at most {settings.max_characters}",
            )
    _check_thresholds(request)
    return request


def _parsed(body: bytes, settings: ServeSettings) -> Any:
    """The value of a JSON; in its texts halves of characters become U+FFFD, as in all that the model reads.

    Raises:
        ValueError: it is no JSON in UTF-8.
        RecursionError: it is too deep.
    """
    try:
        # Nothing of a text stays in a cache.
        return from_json(body, cache_strings="none")
    except ValueError:
        # JavaScript cuts strings amid a character and sends the half as an escape; no other parser takes it.
        if not _ESCAPED_HALF.search(body):
            raise
    value = json.loads(body.decode())
    if isinstance(value, dict):
        texts = value.get("texts")
        if isinstance(texts, list):
            _check_count(len(texts), settings)
            value["texts"] = [_whole(text) for text in texts]
        if "text" in value:
            value["text"] = _whole(value["text"])
    return value


def _whole(text: Any) -> Any:
    return clean_text(text, ()) if isinstance(text, str) else text


def _check_count(texts: int, settings: ServeSettings) -> None:
    if texts > settings.max_texts:
        raise ApiError(413, "too_many_texts", f"texts: {texts} in one request; at most {settings.max_texts}")


def _check_keys(value: Any, model: Served) -> None:
    """Refuse what is no object, and keys that nobody knows: pydantic would list them all, a million even."""
    if not isinstance(value, dict):
        raise ApiError(422, "invalid_request", "body: expected an object with text or texts")
    if not value.keys() <= PredictRequest.model_fields.keys():
        raise ApiError(422, "invalid_request", "unknown key; known: text, texts, top_k, thresholds")
    thresholds = value.get("thresholds")
    if not isinstance(thresholds, dict):
        return
    if model.classifier.thresholds is None:
        raise ApiError(
            422, "invalid_request", "thresholds: only for multilabel models; this one is multiclass"
        )
    labels = model.classifier.metadata.labels
    if any(label not in labels for label in thresholds):
        raise ApiError(422, "invalid_request", "thresholds: names a label that the model does not have")


def _check_thresholds(request: PredictRequest) -> None:
    values = (request.thresholds or {}).values()
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        raise ApiError(422, "invalid_request", "thresholds: expected numbers from 0 to 1")


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ""
    for part in first["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not place:  # a label is the client's text
            place = part
    return ApiError(
        422, "invalid_request", f"{place or 'body'}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    )


def predictions_json(predictions: Sequence[Prediction], truncated: Sequence[bool]) -> list[dict[str, Any]]:
    """Predictions as the answer to a request lists them."""
    return [
        {
            "labels": [_score_json(score) for score in prediction.labels],
            "top": [_score_json(score) for score in prediction.top],
            "confidence": round(prediction.confidence, 6),
            "needs_person": prediction.needs_person,
            "truncated": cut,
        }
        for prediction, cut in zip(predictions, truncated, strict=True)
    ]


def _score_json(score: Score) -> dict[str, Any]:
    return {"label": score.label, "probability": round(score.probability, 6)}
