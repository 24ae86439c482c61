"""The page as one HTML file that needs no network: style and script are inside, all else is forbidden."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from afina import __version__
from afina.reporting import background, behaviour, explanations, results
from afina.reporting.blocks import Section
from afina.reporting.inputs import Inputs
from afina.reporting.setting import Setting


def build_sections(inputs: Inputs, setting: Setting, audited: bool = True) -> list[Section]:
    """The sections of the page that have something to say, in order.

    Args:
        audited: whether doubtful labels were looked for.
    """
    every = [
        results.trust(inputs, setting),
        results.classes(inputs, setting),
        results.confusion(inputs, setting),
        results.confidence(inputs, setting),
        results.slices(inputs, setting),
        behaviour.behaviour(inputs, setting),
        background.mistakes(inputs, setting),
        explanations.explanations(inputs, setting),
        background.labels(inputs, setting, audited),
        background.data(inputs, setting),
        background.training(inputs, setting),
        background.limits(inputs, setting),
        background.use(inputs, setting),
        background.figures(inputs, setting),
        background.glossary(inputs, setting),
    ]
    return [section for section in every if section.blocks]


def render_page(inputs: Inputs, setting: Setting, audited: bool = True) -> str:
    """The page as HTML. Equal arguments give equal text: no date, no path, no random number is in it.

    Args:
        audited: whether doubtful labels were looked for.
    """
    style, script = (_resource(name) for name in ("report.css", "report.js"))
    locale = setting.locale
    environment = Environment(
        loader=PackageLoader("afina.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html").render(
        language=locale.language,
        t=locale.text,
        name=setting.name,
        title=locale.text("page_title", title=setting.name),
        headline=results.headline(inputs, setting),
        tiles=results.tiles(inputs, setting),
        sections=build_sections(inputs, setting, audited),
        private=setting.examples > 0 and _quotes(inputs),
        version=__version__,
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
    )


def _quotes(inputs: Inputs) -> bool:
    """Whether texts that people wrote are among the inputs."""
    texts = (inputs.mistakes, inputs.issues, inputs.examples, inputs.behaviour_failures)
    return any(texts) or bool(inputs.explanations.get("explanations"))


def _resource(name: str) -> str:
    return files("afina.reporting").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy knows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"
