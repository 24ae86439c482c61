"""Files on this machine and behind any URL that fsspec knows, by the same few verbs."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import posixpath
import secrets
import shutil
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, cast

from afina.errors import UserError
from afina.files import atomic_path

# Here a file appears when it is complete, so no temporary name is needed.
_WHOLE_OBJECTS = ("s3", "s3a", "gs", "gcs", "abfs", "az", "memory")
_ONE_PLACE = {"s3a": "s3", "gcs": "gs", "abfs": "az"}  # protocols of the same objects
TEMPORARY = ".tmp"  # how files end that a killed process left half-written

_EDGE = 1 << 16  # bytes at both ends of a file that its stamp covers


class Storage(Protocol):
    """What scoring asks of a place that holds files; locations are strings."""

    def open(self, location: str) -> IO[bytes]:
        """Open for reading, seekable."""

    def write(self, location: str, data: bytes) -> None:
        """Write a file that is there whole or not at all."""

    def writer(self, location: str) -> Any:
        """A context manager that gives a stream; the file appears when the block ends without an error."""

    def exists(self, location: str) -> bool:
        """Whether a file or folder is there."""

    def is_folder(self, location: str) -> bool:
        """Whether a folder is there."""

    def stamp(self, location: str) -> tuple[int, str]:
        """Size in bytes, and what changes when the file does."""

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder; none where there is no folder."""

    def below(self, folder: str) -> list[str]:
        """Locations of all files below a folder, and of links to folders, which are not followed; sorted."""

    def matching(self, pattern: str) -> list[str]:
        """Locations of the files that a pattern with * ? [] ** matches, sorted."""

    def remove(self, location: str) -> None:
        """Remove a file or a folder with all in it; what is not there is no error."""


class LocalStorage:
    """Files on this machine."""

    def open(self, location: str) -> IO[bytes]:
        return Path(location).open("rb")

    def write(self, location: str, data: bytes) -> None:
        path = Path(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())  # a part that is noted as done has to be on the disk
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def writer(self, location: str) -> Iterator[IO[bytes]]:
        with atomic_path(Path(location)) as temporary, temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # as above: a name must not be there before the bytes are

    def exists(self, location: str) -> bool:
        return os.path.lexists(location)

    def is_folder(self, location: str) -> bool:
        return Path(location).is_dir()

    def stamp(self, location: str) -> tuple[int, str]:
        status = Path(location).stat()
        return status.st_size, f"{status.st_mtime_ns}-{_edges(self.open(location), status.st_size)}"

    def names(self, folder: str) -> list[str]:
        path = Path(folder)
        return sorted(item.name for item in path.iterdir()) if path.is_dir() else []

    def below(self, folder: str) -> list[str]:
        found = []
        for directory, folders, names in os.walk(folder, onerror=_not_readable):
            links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
            found += [os.path.join(directory, name) for name in (*links, *names)]
        return sorted(found)

    def matching(self, pattern: str) -> list[str]:
        return sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))

    def remove(self, location: str) -> None:
        path = Path(location)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _not_readable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check it and run again")


class RemoteStorage:
    """Files behind URLs, through fsspec."""

    def __init__(self, file_system: Any, protocol: str) -> None:
        self.file_system = file_system
        self.protocol = protocol

    def open(self, location: str) -> IO[bytes]:
        # fsspec's own files have no readline with a limit.
        return cast("IO[bytes]", io.BufferedReader(self.file_system.open(location, "rb"), 1 << 20))

    def write(self, location: str, data: bytes) -> None:
        with self.writer(location) as stream:
            stream.write(data)

    @contextmanager
    def writer(self, location: str) -> Iterator[IO[bytes]]:
        whole = self.protocol in _WHOLE_OBJECTS
        target = location if whole else f"{location}.tmp"
        if not whole:  # elsewhere there are no folders, and a bucket that is not there is not to be made
            with suppress(NotImplementedError):
                self.file_system.makedirs(location.rsplit("/", 1)[0], exist_ok=True)
        stream = self.file_system.open(target, "wb")
        try:
            yield stream
        except BaseException:
            # Closing would complete the upload of half a file.
            with suppress(Exception):
                stream.discard()
                stream.closed = True  # else it would be closed when it is collected
            raise
        stream.close()
        if not whole:
            self.file_system.mv(target, location)

    def exists(self, location: str) -> bool:
        self.file_system.invalidate_cache()
        return bool(self.file_system.exists(location))

    def is_folder(self, location: str) -> bool:
        self.file_system.invalidate_cache()
        return bool(self.file_system.isdir(location))

    def stamp(self, location: str) -> tuple[int, str]:
        self.file_system.invalidate_cache()
        info = self.file_system.info(location)
        size = int(info["size"])
        if mark := info.get("ETag") or info.get("etag") or info.get("md5Hash"):
            return size, str(mark).strip('"')
        return size, f"{info.get('mtime', info.get('created', ''))}-{_edges(self.open(location), size)}"

    def names(self, folder: str) -> list[str]:
        self.file_system.invalidate_cache()
        with suppress(FileNotFoundError):
            return sorted(str(name).rsplit("/", 1)[-1] for name in self.file_system.ls(folder, detail=False))
        return []

    def below(self, folder: str) -> list[str]:
        self.file_system.invalidate_cache()
        found = self.file_system.find(folder)
        # An empty object with a slash at its end is how consoles make a folder.
        return sorted(self.file_system.unstrip_protocol(name) for name in found if not name.endswith("/"))

    def matching(self, pattern: str) -> list[str]:
        self.file_system.invalidate_cache()
        found = self.file_system.glob(pattern, detail=True)
        return sorted(
            self.file_system.unstrip_protocol(name) for name, info in found.items() if info["type"] == "file"
        )

    def remove(self, location: str) -> None:
        self.file_system.invalidate_cache()
        with suppress(FileNotFoundError):
            self.file_system.rm(location, recursive=True)


def _edges(stream: IO[bytes], size: int) -> str:
    """A hash of a file's first and last bytes: a change that keeps size and time is rarely in neither."""
    with stream:
        digest = hashlib.sha256(stream.read(_EDGE))
        if size > _EDGE:
            stream.seek(max(_EDGE, size - _EDGE))
            digest.update(stream.read(_EDGE))
    return digest.hexdigest()[:16]


def is_of_client(location: str, error: Exception) -> bool:
    """Whether what reads or writes remote places raised an error: clients of them raise what they like."""
    if not is_remote(location):
        return False
    kind = type(error).__module__.split(".")[0]
    if kind != "builtins":
        return kind != "afina"
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.split(".")[0] == "fsspec" for name in frames)


@contextmanager
def readable(location: str) -> Iterator[None]:
    """Turn what a damaged compressed file or a place that is away raises into a `UserError`."""
    try:
        yield
    except (EOFError, zlib.error) as error:
        raise UserError(f"{location}: damaged or cut off ({error}); copy it again") from None
    except FileNotFoundError:
        raise UserError(f"{location}: no longer there; put it back and run again") from None
    except OSError as error:
        raise UserError(f"{location}: cannot be read ({error}); check it and run again") from None
    except Exception as error:
        if not is_of_client(location, error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{location}: cannot be read ({reason[:160]}); copy it here and run again") from None


def is_remote(location: str) -> bool:
    """Whether a location is a URL of another place than this machine's file system."""
    return "://" in location


def normalise(location: str) -> str:
    """A location without the slash at its end; ``file://`` URLs become paths.

    Raises:
        UserError: a chain of URLs (``zip://…::s3://…``): archives are not read; or a URL of nothing.
    """
    if "::" in location and "://" in location:
        raise UserError(f"{location}: chained URLs and archives are not read; unpack the files first")
    location = location.removeprefix("file://").removeprefix("local://")
    if is_remote(location) and not location.split("://", 1)[1].strip("/"):
        raise UserError(
            f"{location}: names no file or folder; give one, such as {location.rstrip('/')}//bucket/texts"
        )
    return location.rstrip("/") or location


def place(location: str) -> str:
    """A location in the one form by which two can be compared: links and ``..`` resolved."""
    if not is_remote(location):
        return os.path.realpath(location)
    protocol, rest = location.split("://", 1)
    return f"{_ONE_PLACE.get(protocol, protocol)}://{posixpath.normpath(rest.lstrip('/'))}"


def is_inside(inner: str, outer: str) -> bool:
    """Whether a `place` is another, or below it."""
    separator = "/" if is_remote(outer) else os.sep
    return inner == outer or inner.startswith(outer.rstrip(separator) + separator)


def storage_of(location: str) -> Storage:
    """The storage that holds a location.

    Raises:
        UserError: a package for it is not installed, or nobody knows such URLs.
    """
    if not is_remote(location):
        return LocalStorage()
    protocol = location.split("://", 1)[0]
    extra = "s3" if protocol in ("s3", "s3a") else "score"
    try:
        import fsspec

        return RemoteStorage(fsspec.core.url_to_fs(location)[0], protocol)  # of the host that it names
    except ImportError as error:
        package = error.name or str(error).split()[1 if str(error).startswith("Install") else 0]
        raise UserError(
            f"{location}: needs the package {package}; install it with `pip install 'afina[{extra}]'`"
        ) from None
    except ValueError:
        raise UserError(
            f"{location}: no file system is known as {protocol}://; give a path or s3://…"
        ) from None
