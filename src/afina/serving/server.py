"""Running the application with uvicorn: one process, one model, threads inside.

More processes would each hold the model and compete for the same processor cores; onnxruntime already uses
them all for a batch, and batches are larger where all requests meet in one queue.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from dataclasses import replace

import uvicorn
from prometheus_client import disable_created_metrics

from afina.errors import UserError
from afina.serving.app import create_app
from afina.serving.hangup import remember_hangups
from afina.serving.logs import json_logs
from afina.serving.model import ModelStore
from afina.serving.protocol import bounded_protocol
from afina.serving.settings import ServeSettings

log = logging.getLogger("afina.serve")

# Files that are open besides the connections: the model, uploads, pipes.
_OTHER_FILES = 128


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; then answer what was accepted.

    Raises:
        UserError: the model cannot be used, or the address cannot be listened on.
    """
    remember_hangups()
    store = ModelStore(settings.model, settings.name, settings.threads, settings.token_budget)
    # A second series for each counter, of use to nobody here.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    with json_logs(), _listen(settings) as listener:
        settings = _within_file_limit(settings)
        host, port = listener.getsockname()[:2]
        log.info(
            "serving", extra={"fields": {"url": f"http://{_shown(host)}:{port}", **store.current.identity()}}
        )
        with suppress(KeyboardInterrupt):
            server(settings, store).run(sockets=[listener])


def server(settings: ServeSettings, store: ModelStore | None = None) -> uvicorn.Server:
    """A uvicorn server with the limits of ``settings``; it runs in any thread."""
    config = uvicorn.Config(
        create_app(settings, store),
        http=bounded_protocol(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=4096,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    return uvicorn.Server(config)


def _listen(settings: ServeSettings) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[
            0
        ]
        return socket.create_server(address[:2], family=family, backlog=4096)
    except (OSError, UnicodeError) as error:
        # A name whose parts are empty or too long is not even looked up.
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise UserError(
            f"serve: cannot listen on {settings.host}:{settings.port} ({reason}); "
            "choose another --host or --port"
        ) from None


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _within_file_limit(settings: ServeSettings) -> ServeSettings:
    """Settings with no more connections than the system lets this process have; it would reset the others."""
    wanted = settings.max_connections + _OTHER_FILES
    allowed = _raise_file_limit(wanted)
    if allowed >= wanted:
        return settings
    connections = max(1, allowed - _OTHER_FILES)
    fields = {"open_files": allowed, "max_connections": connections, "wanted": settings.max_connections}
    log.warning("few_open_files", extra={"fields": fields})
    return replace(settings, max_connections=connections)


def _raise_file_limit(wanted: int) -> int:
    """How many open files this process may have, ``wanted`` at most.

    A connection is one, and many systems allow a process 1,024 unless it asks for more.
    """
    if os.name != "posix":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (ValueError, OSError):
        return soft
    return allowed
