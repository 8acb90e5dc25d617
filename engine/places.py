"""Places: what a URL names, through fsspec; local files are left to `pathlib`.

The keys of a store are names from a crawl: none is joined into a local path.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote, urlsplit

from f2f.engine.errors import UsageError

_BLOCK_BYTES = 256 << 10


def is_url(place: str) -> bool:
    """Whether a place is named by a URL rather than a path."""
    return "://" in place


def local_path(place: str) -> str:
    """The path that a file: URL names; any other place as it is.

    Raises:
        UsageError: it is no URL.
    """
    scheme, separator, rest = place.partition("://")
    if not separator or scheme not in {"file", "local"}:
        return place
    try:
        return unquote(urlsplit(place).path) if scheme == "file" else rest
    except ValueError as error:
        raise UsageError(f"{place!r} is no URL ({error}); correct it") from error


def url_name(url: str) -> str:
    """The last part of a URL, without what a web server is asked beside."""
    web = url.startswith(("http://", "https://"))
    return posixpath.basename(urlsplit(url).path if web else url)


@dataclass(frozen=True)
class RemoteFile:
    """A file that a URL names; opened like a path."""

    url: str

    def __str__(self) -> str:
        return self.url

    def open(self, mode: Literal["rb"] = "rb", buffering: int = 0) -> BinaryIO:
        """Its bytes, at any place; `buffering` is what is fetched at once, in bytes (0: little).

        Raises:
            Exception: whatever the library raises that speaks with the store.
        """
        system, path = file_system(self.url)
        stream: BinaryIO = system.open(path, mode, block_size=buffering or _BLOCK_BYTES)
        return stream

    def modified_ns(self) -> int:
        """Unix time of its last change; 0 where the store does not say."""
        system, path = file_system(self.url)
        with suppress(NotImplementedError, AttributeError):
            return int(system.modified(path).timestamp() * 1e9)
        return 0


def files_below(url: str) -> list[str]:
    """What lies below the folder at `url`, sorted: paths relative to it; whole URLs where a web page links elsewhere.

    Raises:
        UsageError: the store cannot be asked.
    """
    with usage_errors(url):
        system, path = file_system(url)
        root = path.rstrip("/") + "/"
        return sorted(name.removeprefix(root) for name in system.find(path))


@contextmanager
def usage_errors(url: str) -> Iterator[None]:
    """Turn whatever a store's library raises into an error that says what to look at."""
    try:
        yield
    except UsageError:
        raise
    except ImportError as error:
        raise UsageError(f"{url} cannot be read ({error}); for s3: URLs: pip install 'f2f[s3]'") from error
    except Exception as error:  # every file system of fsspec raises what its client library raises
        raise UsageError(
            f"{url} cannot be read ({type(error).__name__}: {error}); accepted: a URL that fsspec can open here; "
            "look at the name, the network and the credentials (for s3: the variables AWS_…, or ~/.aws)"
        ) from error


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, which remembers no listings, and the path there."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return system, path
