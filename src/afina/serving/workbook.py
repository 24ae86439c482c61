"""Excel workbooks of strangers, read in a process of their own with bounded memory and time.

A workbook is a ZIP of XML: a small file can unpack to gigabytes, name rows by the billion, or hold XML that
takes a hundred times its size in memory. Sizes are checked before, and what gets through can break no more
than its own process.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import tempfile
from contextlib import suppress
from typing import IO

from afina.serving.errors import ApiError
from afina.serving.workbook_reader import DISK_FULL, REFUSED, TOO_MUCH

SECONDS = 120
MEMORY_BYTES = 1 << 30


async def workbook_to_csv(
    stream: IO[bytes], max_inflated_bytes: int, max_rows: int, max_columns: int
) -> tuple[IO[bytes], dict[int, str]]:
    """Turn the first visible sheet of a workbook into a temporary CSV file (UTF-8, comma).

    A formula gives the value that Excel last saved; where there is none, an empty cell, and the place of a
    column's first such formula is given by the column's position. Rows without a filled cell are blank lines,
    so the records of the CSV are numbered as the rows of the sheet.

    Raises:
        ApiError: 400 not a workbook, 413 beyond a limit.
        OSError: there is no room for the CSV.
    """
    target = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        status, errors = await _run(stream, target, (max_inflated_bytes, max_rows, max_columns, MEMORY_BYTES))
        if status == DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if status != 0:
            raise ApiError(*_reason(status, errors))
        unsaved = {int(column): str(place) for column, place in json.loads(errors.splitlines()[-1]).items()}
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target, unsaved


async def _run(stream: IO[bytes], target: IO[bytes], limits: tuple[int, ...]) -> tuple[int, bytes]:
    """Status and stderr of the reader; it does not outlive this call."""
    stream.seek(0)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # no module from the current folder
        "-m",
        "afina.serving.workbook_reader",
        *map(str, limits),
        stdin=stream.fileno(),
        stdout=target,
        stderr=asyncio.subprocess.PIPE,
        # numpy, which openpyxl loads, would take address space for each thread.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        async with asyncio.timeout(SECONDS):
            _, errors = await process.communicate()
    except TimeoutError:
        raise ApiError(*TOO_MUCH) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, errors


def _reason(status: int, errors: bytes) -> tuple[int, str, str]:
    """What the reader said, or, if it died, that the workbook was too much for it."""
    if status == REFUSED:
        with suppress(ValueError, IndexError):
            reason = json.loads(errors.splitlines()[-1])
            return int(reason[0]), str(reason[1]), str(reason[2])
    return TOO_MUCH
