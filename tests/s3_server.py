"""An S3 server on loopback (moto's) whose answers can be made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

Start = Callable[..., Any]
Fault = Callable[[str, str], str]
"""(method, path) -> "" or what goes wrong: "503", "cut" (the answer ends early), "gone" (no answer)"""


@dataclass
class S3Server:
    """Where it is, and what it was asked."""

    url: str
    fault: Fault = lambda _method, _path: ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(method, path) of every request"""


class _Faulty:
    """The server's application behind the fault."""

    def __init__(self, application: Any) -> None:
        self.application, self.server = application, S3Server("")

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.server.asked.append(request)
        fault = self.server.fault(*request)
        if fault == "503":
            start("503 Slow Down", [("Content-Length", "0")])
            return []
        if fault == "gone":
            raise ConnectionAbortedError
        body = b"".join(self.application(environ, start))
        return [body[: len(body) // 2]] if fault == "cut" else [body]


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Serve on a free port; the environment leads fsspec's s3: URLs there."""
    pytest.importorskip("moto", reason="the extra `test` is not installed")
    import s3fs
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    application = _Faulty(DomainDispatcherApplication(create_backend_app))
    served = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Silent)
    application.server.url = f"http://127.0.0.1:{served.server_port}"
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    given = {"ENDPOINT_URL": application.server.url, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}
    given |= {"DEFAULT_REGION": "us-east-1", "MAX_ATTEMPTS": "1", "EC2_METADATA_DISABLED": "true"}
    for name, value in given.items():
        patch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield application.server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        served.shutdown()
        thread.join()
        served.server_close()
