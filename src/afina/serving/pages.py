"""Small pages without a script: the description of the API, and the model card.

FastAPI's own pages load their scripts from a content delivery network, and the packages that bring those
scripts along (Swagger UI, several megabytes) need inline scripts, which the content security policy forbids.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

CSS = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
pre { font: 14px/1.45 ui-monospace, monospace; overflow-x: auto; padding: .75rem; border: 1px solid #8886; }
pre.text { white-space: pre-wrap; overflow-wrap: anywhere; border: 0; padding: 0; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; }
h2 code, td code { font: inherit; font-family: ui-monospace, monospace; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
"""


def card_page(card: str) -> str:
    """The model card as it is, in a page."""
    return _page("Model card", f'<pre class="text">{escape(card)}</pre>')


def api_page(schema: dict[str, Any]) -> str:
    """What an OpenAPI schema says, to read."""
    info = schema["info"]
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('description', ''))}</p>",
        '<p>For programs: <a href="/openapi.json">/openapi.json</a></p>',
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>")
            parts.extend(_body(content, schema) for content in [operation.get("requestBody")] if content)
            parts.append("<h3>Answers</h3>")
            parts.extend(_answer(status, answer, schema) for status, answer in operation["responses"].items())
    return _page(f"{info['title']} API", "\n".join(parts))


def _body(body: dict[str, Any], schema: dict[str, Any]) -> str:
    (kind, content), *_ = body["content"].items()
    return (
        f"<h3>Request: {escape(kind)}</h3>\n{_fields(content.get('schema', {}), schema)}{_example(content)}"
    )


def _answer(status: str, answer: dict[str, Any], schema: dict[str, Any]) -> str:
    kinds = ", ".join(answer.get("content", {}))
    line = f"<p><strong>{escape(status)}</strong> {escape(answer['description'])} {escape(kinds)}</p>"
    if status.startswith("2"):
        for content in answer.get("content", {}).values():
            line += _fields(content.get("schema", {}), schema) + _example(content)
    return line


def _fields(wanted: dict[str, Any], schema: dict[str, Any]) -> str:
    """A table of an object's fields; those of objects in it follow by their names."""
    known = schema.get("components", {}).get("schemas", {})
    tables = []
    todo, seen = [("", wanted)], set()
    while todo:
        name, one = todo.pop(0)
        if "$ref" in one:
            name = one["$ref"].rpartition("/")[2]
            one = known.get(name, {})
        if name in seen or "properties" not in one:
            continue
        seen.add(name)
        rows = []
        for field, value in one["properties"].items():
            rows.append(
                f"<tr><td><code>{escape(field)}</code></td><td>{escape(_kind(value))}</td>"
                f"<td>{escape(value.get('description', ''))}</td></tr>"
            )
            todo += [("", part) for part in _parts(value) if "$ref" in part]
        title = f"<p>{escape(name)}: {escape(one.get('description', ''))}</p>" if name else ""
        tables.append(f"{title}<table>{''.join(rows)}</table>")
    return "\n".join(tables)


def _parts(value: dict[str, Any]) -> list[dict[str, Any]]:
    return [value, *value.get("anyOf", []), *([value["items"]] if "items" in value else [])]


def _kind(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_kind(part) for part in value["anyOf"])
    if "$ref" in value:
        return str(value["$ref"].rpartition("/")[2])
    if value.get("type") == "array":
        return f"list of {_kind(value.get('items', {}))}"
    return str(value.get("type", "any"))


def _example(content: dict[str, Any]) -> str:
    if "example" not in content:
        return ""
    return f"<pre>{escape(json.dumps(content['example'], indent=2, ensure_ascii=False))}</pre>"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="stylesheet" href="/docs.css">\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    )
