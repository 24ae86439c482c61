"""Settings of `afina serve`, with their ranges."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from afina.errors import UserError
from afina.runtime.loading import MOST_THREADS

MEBIBYTE = 1 << 20

# Less than for whole files: of the few dozen texts that wait at a time, larger batches put short ones with
# long ones. Of the demo's texts 64 that wait make 1.10 times their tokens in batches of 512, 1.04 in these.
BATCH_TOKENS = 256

_RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "threads": (1, MOST_THREADS),
    "token_budget": (1, 1 << 20),
    "queue_texts": (1, 1 << 20),
    "max_texts": (1, 1 << 16),
    "max_characters": (1, 10_000_000),
    "max_request_bytes": (1024, 1 << 30),
    "max_held_bytes": (1024, 1 << 34),
    "max_file_bytes": (1024, 1 << 32),
    "max_inflated_bytes": (1024, 1 << 34),
    "max_rows": (1, 10_000_000),
    "max_uploads": (1, 64),
    "max_arriving": (1, 1024),
    "max_connections": (1, 100_000),
    "request_seconds": (0.01, 3600),
    "header_seconds": (0.1, 600),
    "body_seconds": (0.1, 3600),
    "keep_alive_seconds": (1, 3600),
    "shutdown_seconds": (0, 3600),
    "reload_seconds": (0, 3600),
}

# What a user of `afina serve` types; the other settings have no option.
_OPTIONS = {
    "queue_texts": "--queue",
    "max_file_bytes": "--max-file-mb",
    "request_seconds": "--timeout",
    "reload_seconds": "--reload-every",
    "port": "--port",
    "threads": "--threads",
    "max_texts": "--max-texts",
}
_UNITS = {"max_file_bytes": MEBIBYTE}  # of an option, where the setting has a smaller one

_HOST_NAME = re.compile(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", re.ASCII)
_ORIGIN = re.compile(rf"(https?)://({_HOST_NAME.pattern})(?::([0-9]{{1,5}}))?/?", re.ASCII)


@dataclass(frozen=True)
class ServeSettings:
    """What a server is started with.

    Attributes:
        model: the ``model.onnx`` that is served; its README.md, if any, is the model card.
        host: the address to listen on; 127.0.0.1 answers this machine alone.
        port: the port to listen on; 0 takes a free one.
        name: what the answers call the model; None: the name of its file.
        threads: processor threads of the model; None: as many as onnxruntime chooses.
        token_budget: most tokens in one batch, padding included.
        queue_texts: most texts that wait at a time; a request that finds no room is answered 429.
        max_texts: most texts in one request.
        max_characters: most characters in one text.
        max_request_bytes: largest JSON request.
        max_held_bytes: most bytes of JSON requests held at a time, all clients together; beyond it a body
            that arrives slowly gives way (408), or else the new one is answered 503.
        max_file_bytes: largest uploaded file.
        max_inflated_bytes: largest size of a workbook once unpacked.
        max_rows: most rows of an uploaded file.
        max_uploads: most files worked on at a time; those and the ones that arrive have together at most the
            bytes of so many of the largest.
        max_arriving: most files that arrive, or wait to be worked on, at a time; beyond it one that arrives
            slowly gives way (408), or else the new one is answered 429.
        max_connections: most open connections; beyond it the one idle for longest is closed, or else the one
            whose body has been arriving for longest, or whose answer has gone unread for longest. Fewer where
            the system allows too few open files.
        request_seconds: a text has to be answered in so long, else 503.
        header_seconds: the headers of a request have to arrive in so long, else the connection is closed.
        body_seconds: the body has to arrive in so long, with 1 s more for each 16 KiB received, else 408;
            silence is never waited for any longer than this, however much came before it.
        keep_alive_seconds: a connection without a request is closed after so long.
        shutdown_seconds: after SIGTERM, what was accepted is answered for so long.
        reload_seconds: how often to look whether the file changed; 0: on SIGHUP alone.
        api_keys: one of them has to come with each request; none: no key is asked for.
        cors_origins: web origins whose scripts may call the server; none: its own page alone.
        allowed_hosts: names that the server answers to besides those of loopback; none: these alone if it
            listens on loopback, else any.
    """

    model: Path
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    threads: int | None = None
    token_budget: int = BATCH_TOKENS
    queue_texts: int = 4096
    max_texts: int = 1000
    max_characters: int = 50_000
    max_request_bytes: int = 4 * MEBIBYTE
    max_held_bytes: int = 64 * MEBIBYTE
    max_file_bytes: int = 50 * MEBIBYTE
    max_inflated_bytes: int = 200 * MEBIBYTE
    max_rows: int = 100_000
    max_uploads: int = 4
    max_arriving: int = 32
    max_connections: int = 2048
    request_seconds: float = 30.0
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    keep_alive_seconds: int = 15
    shutdown_seconds: int = 30
    reload_seconds: float = 2.0
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name not in _RANGES or value is None:
                continue
            low, high = _RANGES[one.name]
            if not low <= value <= high:
                raise UserError(f"serve: {_out_of_range(one.name, value)}")
        if self.max_texts > self.queue_texts:
            raise UserError(
                f"serve: --max-texts: {self.max_texts} is more than the queue holds ({self.queue_texts}); "
                "lower it or raise --queue"
            )
        if any(not key or not key.isascii() or key != key.strip() for key in self.api_keys):
            raise UserError(
                "serve: --api-key-file or AFINA_API_KEY: expected ASCII without spaces around it; "
                "choose another key"
            )
        # As browsers send them.
        object.__setattr__(self, "cors_origins", tuple(map(_origin, self.cors_origins)))
        object.__setattr__(self, "allowed_hosts", tuple(map(_host_name, self.allowed_hosts)))


def _out_of_range(name: str, value: float) -> str:
    """What is wrong, by the name and in the unit of the option, where there is one."""
    unit = _UNITS.get(name, 1)
    low, high = _RANGES[name]
    least = max(low / unit, 1) if unit > 1 else low  # the option takes whole numbers
    style = ".10g" if name == "port" else ",.10g"  # a port is a name, not a quantity
    expected = f"expected {least:{style}} to {high / unit:{style}}"
    return f"{_OPTIONS.get(name, name)}: {expected}, found {value / unit:{style}}"


def _origin(given: str) -> str:
    if given == "*":
        return given
    found = _ORIGIN.fullmatch(given.lower())
    if found is None:
        raise UserError(f"serve: --cors-origin: {given!r} is no origin; one is such as https://example.org")
    scheme, host, port = found.groups()
    standard = {"http": "80", "https": "443"}[scheme]
    return f"{scheme}://{host}" + (f":{port}" if port and port != standard else "")


def _host_name(given: str) -> str:
    if not _HOST_NAME.fullmatch(given):
        raise UserError(
            f"serve: --allowed-host: {given!r} is no name of a host; give one such as afina.example.org, "
            "without scheme and port"
        )
    return given.lower().rstrip(".")


def api_keys(path: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The keys in a file, one a line (``#`` starts a comment line), and the one in AFINA_API_KEY.

    Raises:
        UserError: the file cannot be read or holds no key, or the variable is empty.
    """
    keys: list[str] = []
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UserError(f"serve: --api-key-file: cannot read {path} ({reason})") from None
        keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not keys:
            raise UserError(f"serve: --api-key-file: {path} holds no key; put one on its first line")
    if "AFINA_API_KEY" in environment:
        # An empty variable is a deployment gone wrong; serving without a key would hide it.
        if not environment["AFINA_API_KEY"].strip():
            raise UserError("serve: AFINA_API_KEY is empty; put a key into it or unset it")
        keys.append(environment["AFINA_API_KEY"].strip())
    return tuple(keys)
