"""Secrets come from the environment and go to the driver alone: never to a message, a log or a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from afina.errors import UserError

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SECRET_NAME = re.compile(r"(?i)pass|pwd|secret|token|key|uri|url|dsn|conn")


def environment(root: Path) -> dict[str, str]:
    """The process's variables over those of ``root/.env``; the process's own are not changed.

    Raises:
        UserError: the file is not UTF-8.
    """
    from dotenv import dotenv_values

    file = root / ".env"
    try:
        values = dotenv_values(file) if file.is_file() else {}
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8; save it in that encoding") from None
    return {**{name: value for name, value in values.items() if value is not None}, **os.environ}


@dataclass(frozen=True, repr=False)
class SecretUrl:
    """An expanded URL and the way to take it out of any text."""

    value: str
    secrets: tuple[str, ...]

    def scrub(self, text: str) -> str:
        """``text`` on one line, with the URL and every secret part of it replaced by ``***``."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        # A URL that a driver has written anew (another order of its options) still shows user:password@.
        text = re.sub(r"://[^/@\s]*:[^@\s]*@", "://***@", text)
        return " ".join(text.split())


def expand(url: str, variables: Mapping[str, str], where: str) -> SecretUrl:
    """Replace every ``${NAME}`` of a URL by the variable's value.

    Raises:
        UserError: a variable is not set; only its name is told.
    """
    used: dict[str, str] = {}

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if not variables.get(name):
            raise UserError(
                f"{where}: the environment variable {name} is not set; export it or write {name}=... in .env"
            )
        used[name] = variables[name].strip()
        return used[name]

    expanded = _VARIABLE.sub(value_of, url)
    if used and _is_ambiguous(expanded):
        raise UserError(
            f"{where}: url: a special character of the user or the password must be escaped "
            "(@ as %40, / as %2F, : as %3A, ? as %3F, # as %23)"
        )
    secrets = {expanded} if used else set()
    secrets.update(value for name, value in used.items() if _SECRET_NAME.search(name))
    secrets.update(_passwords(expanded))
    secrets |= {unquote(secret) for secret in secrets}
    return SecretUrl(expanded, tuple(sorted((s for s in secrets if s), key=len, reverse=True)))


def _is_ambiguous(url: str) -> bool:
    """Whether an unescaped character cuts the password, so that a driver would take its rest for a host."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme.startswith("sqlite"):
        return False
    if "@" in authority:
        return authority.count("@") > 1
    cut = ":" in authority and not re.fullmatch(r"\d*", authority.rsplit(":", 1)[1])
    return cut and "@" in rest


def _passwords(url: str) -> set[str]:
    found: set[str] = set()
    # Up to the last @ before the path, and up to the last of all: a password may hold both unescaped.
    for authority in (re.match(r"[^:/]+://([^/]*)@", url), re.match(r"[^:/]+://(.*)@", url, re.DOTALL)):
        if authority and ":" in authority.group(1):
            found.add(authority.group(1).split(":", 1)[1])
    try:
        query = parse_qsl(urlsplit(url).query)
    except ValueError:
        query = []
    found.update(value for name, value in query if _SECRET_NAME.search(name))
    return found
