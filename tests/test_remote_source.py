"""Sources that URLs name: what is read of them, how it gets here, and what becomes of it when a store fails."""

from __future__ import annotations

import io
import json
import os
import resource
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from material import Setup, TinyNetworks, contents, crawl, masks, records
from s3_server import S3Server, s3_server

from f2f.engine import UsageError, label, show_mask
from f2f.engine.errors import MachineError
from f2f.engine.options import DecodeOptions, FetchOptions, LabelOptions, SourceOptions
from f2f.engine.places import RemoteFile, files_below, local_path, url_name
from f2f.engine.pool import DecodePool
from f2f.engine.source import read_source
from f2f.engine.staging import Stager
from f2f.engine.types import Frame, InputRow, VideoEnd

NAMES = ("red/a.mp4", "blue/b.mp4", "green/deep/c.mp4", "red/d.mp4")
OUTSIDE = SourceOptions(allow_outside=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES)


@pytest.fixture(scope="module")
def served() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture
def s3(served: S3Server) -> Iterator[S3Server]:
    """The server, without faults."""
    served.asked.clear()
    yield served
    served.fault = lambda _method, _path: ""


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder in the memory's file system."""
    yield "memory://crawl"
    fsspec.filesystem("memory").store.clear()


def put(url: str, data: bytes) -> str:
    with fsspec.open(url, "wb") as stream:
        stream.write(data)
    return url


def upload(videos: Path, url: str) -> str:
    fsspec.filesystem("s3").makedirs(url.split("/")[2], exist_ok=True)
    for name in NAMES:
        put(f"{url}/{name}", (videos / name).read_bytes())
    return url


def options(setup: Setup, source: str, out: Path, networks: TinyNetworks, **fetch: object) -> LabelOptions:
    given = replace(setup.options(Path("x"), out, networks), source=source)
    return replace(given, fetch=FetchOptions(cache=out.parent / "cache", **fetch))  # type: ignore[arg-type]  # by name


def row(url: str, span: tuple[int, int] | None = None) -> InputRow:
    return InputRow(url, url, "red", location=url, span=span)


def stage(rows: list[InputRow], cache: Path, decoders: int = 1, **given: object) -> dict[int, tuple[int, VideoEnd]]:
    """Frames and end of every video."""
    fetch = FetchOptions(cache=cache, **given)  # type: ignore[arg-type]  # by name
    frames, ends = dict.fromkeys(range(len(rows)), 0), {}
    with DecodePool(DecodeOptions(decoders=decoders, max_side=96)) as pool, Stager(fetch) as stager:
        for item in stager.frames(pool, enumerate(rows)):
            if isinstance(item, Frame):
                frames[item.video] += 1
            else:
                ends[item.video] = frames[item.video], item
    return ends


# ---- what is read


def test_a_folder_in_a_store(memory: str) -> None:
    for name in ("red/a.mp4", "red/deep/b b.WEBM", "blue/é#?.mp4", "c.mp4", "red/notes.txt", "red/../up.mp4"):
        put(f"{memory}/{name}", b"x")
    put("memory://crawler/red/x.mp4", b"x")
    found = {
        row.video: (row.id, row.location, row.problem and row.problem[0])
        for row in read_source(memory, SourceOptions())
    }
    assert {name: found[name] for name in ("red/a.mp4", "red/deep/b b.WEBM", "blue/é#?.mp4", "c.mp4")} == {
        "red/a.mp4": ("red/a.mp4", f"{memory}/red/a.mp4", None),
        "red/deep/b b.WEBM": ("red/deep/b b.WEBM", f"{memory}/red/deep/b b.WEBM", None),
        "blue/é#?.mp4": ("blue/é#?.mp4", f"{memory}/blue/é#?.mp4", None),
        "c.mp4": ("c.mp4", "", "no_query"),
    }
    assert not any("crawler" in name for name in found)


def test_keys_that_lead_elsewhere_are_refused(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [
        "red/a.mp4",
        "red/../../up.mp4",
        "red/x.mp4::file:///etc/hostname.mp4",
        "red/a\0.mp4",
        "https://x.invalid/y.mp4",
    ]
    monkeypatch.setattr("f2f.engine.source.files_below", lambda _: keys)
    rows = read_source(memory, SourceOptions())
    assert [row.problem and row.problem[0] for row in rows] == [None, "outside", "bad_path", "bad_path", "outside"]
    assert [bool(row.location) for row in rows] == [True, False, False, False, False]


def test_a_manifest_in_a_store(memory: str) -> None:
    names = ["a.mp4", "../up.mp4", f"{memory}/sub/b.mp4", "memory://elsewhere/c.mp4", "file:///etc/hostname"]
    lines = [json.dumps({"video": name, "query": "red"}) for name in names]
    url = put(f"{memory}/list.jsonl", "\n".join(lines).encode())
    inside = [f"{memory}/a.mp4", "", f"{memory}/sub/b.mp4", "", ""]
    assert [row.location for row in read_source(url, SourceOptions())] == inside
    admitted = [row.location for row in read_source(url, OUTSIDE)]
    assert admitted == [inside[0], f"{memory}/../up.mp4", inside[2], names[3], "/etc/hostname"]


def test_a_local_manifest_with_urls_needs_consent(memory: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"video": f"{memory}/a.mp4", "query": "red"}))
    (refused,) = read_source(str(tmp_path / "x.jsonl"), SourceOptions())
    assert (refused.location, refused.problem and refused.problem[0]) == ("", "outside")
    (admitted,) = read_source(str(tmp_path / "x.jsonl"), OUTSIDE)
    assert (admitted.location, admitted.problem) == (f"{memory}/a.mp4", None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://nothing", "holds no video"),
        ("memory://nothing.csv", "memory://nothing.csv cannot be read .FileNotFoundError"),
        ("memory://nothing.tar", "memory://nothing.tar cannot be read .FileNotFoundError"),
        ("nonsense://x", "nonsense://x cannot be read"),
        ("gs://bucket/x", r"gcsfs.*f2f\[s3\]"),
    ],
)
def test_sources_that_cannot_be_read(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_source(url, SourceOptions())


def test_a_damaged_manifest_is_named(memory: str) -> None:
    url = put(f"{memory}/x.parquet", b"no table")
    with pytest.raises(UsageError, match=f"in {url}: .*is not a Parquet file"):
        read_source(url, SourceOptions())


def test_a_tar_in_a_store_is_read_by_ranges(memory: str, videos: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("red/a.mp4", "blue/b.mp4"):
            tar.add(videos / name, name)
    url = put(f"{memory}/x.tar", stream.getvalue())
    rows = read_source(url, SourceOptions())
    assert [(row.id, row.location) for row in rows] == [("red/x.tar/red/a.mp4", url), ("blue/x.tar/blue/b.mp4", url)]
    assert rows == read_source(memory, SourceOptions()), "the same in a folder"
    ends = stage(rows, tmp_path / "cache")
    whole = stage([row(str(videos / "red/a.mp4")), row(str(videos / "blue/b.mp4"))], tmp_path / "cache")
    assert {video: frames for video, (frames, _) in ends.items()} == {
        video: frames for video, (frames, _) in whole.items()
    }
    assert all(end.failure is None for _, end in ends.values())


def test_places() -> None:
    assert local_path("file:///a%20b/c") == "/a b/c"
    assert local_path("s3://a/b") == "s3://a/b"
    assert local_path("/a/b") == "/a/b"
    assert url_name("https://x.invalid/a/list.csv?token=1/2") == "list.csv"
    assert url_name("s3://bucket/a?b.csv") == "a?b.csv"


# ---- how it gets here


def sizes_of_copies(cache: Path) -> dict[str, int]:
    """Name and bytes of every copy that is there; files and folders may vanish while this looks."""
    sizes = {}
    with suppress(FileNotFoundError):  # a folder is gone
        for path in cache.glob("f2f-cache-*/*"):
            with suppress(FileNotFoundError):  # a copy is gone
                sizes[path.name] = path.stat().st_size
    return sizes


def test_copies_are_bounded_and_removed(memory: str, videos: Path, tmp_path: Path) -> None:
    data = (videos / "red/a.mp4").read_bytes()
    rows = [row(put(f"{memory}/{number}.mp4", data)) for number in range(6)]
    seen, most, done = set[str](), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            sizes = sizes_of_copies(tmp_path / "cache")
            seen.update(sizes)
            most = max(most, sum(sizes.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ends = stage(rows, tmp_path / "cache", decoders=2, fetchers=5, cache_gb=2.5 * len(data) / 1e9)
    finally:
        done.set()
        watcher.join()
    assert sorted(ends) == list(range(6))
    assert all(frames and not end.failure for frames, end in ends.values())
    assert seen, "the watcher saw copies"
    assert most <= 2.5 * len(data)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_larger_than_the_cache_fails(memory: str, videos: Path, tmp_path: Path) -> None:
    data = (videos / "red/a.mp4").read_bytes()
    rows = [row(put(f"{memory}/big.mp4", data * 2)), row(put(f"{memory}/small.mp4", data))]
    ends = stage(rows, tmp_path / "cache", cache_gb=1.5 * len(data) / 1e9)
    failure = ends[0][1].failure
    assert failure is not None
    assert (failure.stage, failure.reason, failure.failure) == ("fetch", "file_too_large", "permanent")
    assert ends[1][1].failure is None


def test_a_copy_has_the_time_of_its_original(memory: str, videos: Path, tmp_path: Path) -> None:
    url = put(f"{memory}/x.mp4", (videos / "red/a.mp4").read_bytes())
    with DecodePool(DecodeOptions(decoders=1)) as pool, Stager(FetchOptions(cache=tmp_path)) as stager:
        next(frames := stager.frames(pool, [(3, row(url))]))
        (copy,) = tmp_path.glob("f2f-cache-*/*")
        assert copy.name == "3.video"
        assert copy.stat().st_mtime_ns == RemoteFile(url).modified_ns() > 0
        del frames
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed(memory: str, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "f2f-cache-dead").mkdir()
    (tmp_path / "f2f-cache-dead" / "0.video").write_bytes(b"x")
    (tmp_path / "f2f-cache-link").symlink_to(videos)
    (tmp_path / "other").mkdir()
    rows = [(0, row(put(f"{memory}/x.mp4", (videos / "red/a.mp4").read_bytes())))]
    with DecodePool(DecodeOptions(decoders=1)) as pool, Stager(FetchOptions(cache=tmp_path)) as first:
        next(first.frames(pool, rows))
        live = {path.name for path in tmp_path.iterdir()} - {"other", "f2f-cache-link"}
        assert len(live) == 1
        with DecodePool(DecodeOptions(decoders=1)) as other, Stager(FetchOptions(cache=tmp_path)) as second:
            list(second.frames(other, rows))
        assert live < {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"other", "f2f-cache-link"}
    assert (videos / "red/a.mp4").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_cache_that_cannot_be_written_stops_the_run(memory: str, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(MachineError, match="writing is not permitted"):
        stage([row(put(f"{memory}/x.mp4", b"x"))], tmp_path / "cache")


def test_a_full_disk_stops_the_run(memory: str, tmp_path: Path) -> None:
    """Stands for one: files may not grow beyond 1000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(MachineError, match=r"while writing .*cache.*run the same command again"):
            stage([row(put(f"{memory}/x.mp4", b"x" * 5000))], tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "cache").iterdir()) == []


# ---- stores that fail


def test_reasons(memory: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    given: dict[str, Exception] = {
        "lost": FileNotFoundError("no such key"),
        "secret": PermissionError("403"),
        "down": ConnectionError("no answer"),
        "strange": RuntimeError("what the library says"),
    }
    truth = RemoteFile.open

    def opened(file: RemoteFile, *arguments: object, **options: object) -> object:
        name = url_name(file.url)
        tried.append(name)
        if name in given and not (name == "down" and tried.count("down") == 2):
            raise given[name]
        return truth(file, *arguments, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(RemoteFile, "open", opened)
    monkeypatch.setattr("f2f.engine.staging._PAUSE_SECONDS", 0.01)
    put(f"{memory}/down", (videos / "red/a.mp4").read_bytes())
    rows = [*(row(f"{memory}/{name}") for name in given), row("nonsense://x"), row(str(videos / "red/a.mp4"))]
    failures = [end.failure for _, (_, end) in sorted(stage(rows, tmp_path / "cache").items())]
    assert [failure and (failure.stage, failure.reason, failure.failure) for failure in failures] == [
        ("fetch", "missing", "transient"),
        ("fetch", "unreadable", "transient"),
        None,  # the second attempt did it
        ("fetch", "unreachable", "transient"),
        ("fetch", "unreachable", "transient"),
        None,
    ]
    assert [tried.count(name) for name in given] == [1, 1, 2, 3]
    assert failures[3] is not None
    assert failures[3].detail == "RuntimeError: what the library says (attempt 3 of 3)"


def test_local_videos_do_not_wait_for_a_slow_store(
    memory: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()
    truth = RemoteFile.open

    def slowly(file: RemoteFile, *arguments: object, **options: object) -> object:
        waiting.wait(30)
        return truth(file, *arguments, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(RemoteFile, "open", slowly)
    local = row(str(videos / "blue/b.mp4"))
    rows = [row(put(f"{memory}/x.mp4", (videos / "red/a.mp4").read_bytes())), local, local]
    order = []
    with DecodePool(DecodeOptions(decoders=1)) as pool, Stager(FetchOptions(cache=tmp_path)) as stager:
        for item in stager.frames(pool, enumerate(rows)):
            if isinstance(item, VideoEnd):
                order.append(item.video)
                if len(order) == 2:
                    waiting.set()
    assert order == [1, 2, 0]


def test_a_store_that_never_answers_does_not_hold_the_end(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = threading.Event()
    monkeypatch.setattr(RemoteFile, "open", lambda *_, **__: forever.wait(60))
    start = time.monotonic()
    with DecodePool(DecodeOptions(decoders=1)) as pool, Stager(FetchOptions(cache=tmp_path)) as stager:
        frames = stager.frames(pool, [(0, row(f"{memory}/x.mp4")), (1, row(str(tmp_path / "lost.mp4")))])
        assert isinstance(next(frames), VideoEnd)
    assert time.monotonic() - start < 50
    assert list(tmp_path.iterdir()) == []
    forever.set()


# ---- a whole run from S3


def test_the_same_run_as_from_a_folder(s3: S3Server, videos: Path, tmp_path: Path, networks: TinyNetworks) -> None:
    url = upload(videos, "s3://crawls/one")
    setup = Setup(max_windows=2)
    label(setup.options(videos, tmp_path / "local", networks))
    summary = label(options(replace(setup, decoders=2), url, tmp_path / "out", networks))
    assert (summary.ok, summary.masks) == (4, 8)
    assert pictures_and_table(tmp_path / "out") == pictures_and_table(tmp_path / "local")
    assert list((tmp_path / "cache").iterdir()) == []
    assert show_mask(tmp_path / "out", masks(tmp_path / "out")[0]["id"]).is_file()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["given"]["source"] == url


def pictures_and_table(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name.startswith(("voc/", "labels"))}


def test_a_server_that_fails_in_the_middle(
    s3: S3Server, videos: Path, tmp_path: Path, networks: TinyNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that are cut off are asked for again; what stays away is a transient failure, and `f2f retry`'s."""
    url = upload(videos, "s3://crawls/two")
    cut: list[str] = []

    def fault(method: str, path: str) -> str:
        if method == "GET" and path.endswith("a.mp4") and len(cut) < 2:
            cut.append(path)
            return "cut"
        return "503" if path.endswith("b.mp4") else ""

    s3.fault = fault
    monkeypatch.setattr("f2f.engine.staging._PAUSE_SECONDS", 0.01)
    setup = Setup(max_windows=2)
    summary = label(options(setup, url, tmp_path / "out", networks, fetch_attempts=2))
    assert len(cut) == 2
    assert (summary.ok, summary.failed) == (3, 1)
    found = records(tmp_path / "out")
    assert {name: record["reason"] for name, record in found.items() if record["reason"]} == {
        "blue/b.mp4": "unreachable"
    }
    assert (found["blue/b.mp4"]["stage"], found["blue/b.mp4"]["failure"]) == ("fetch", "transient")
    assert "attempt 2 of 2" in found["blue/b.mp4"]["detail"]


def test_objects_that_vanish(s3: S3Server, videos: Path, tmp_path: Path) -> None:
    url = upload(videos, "s3://crawls/three")
    rows = read_source(url, SourceOptions())
    fsspec.filesystem("s3").rm("crawls/three/red/a.mp4")
    ends = stage(rows, tmp_path / "cache")
    reasons = {rows[video].id: end.failure and end.failure.reason for video, (_, end) in ends.items()}
    assert reasons == {"red/a.mp4": "missing", "blue/b.mp4": None, "green/deep/c.mp4": None, "red/d.mp4": None}
    assert files_below(url) == sorted(set(NAMES) - {"red/a.mp4"})
    assert {method for method, _ in s3.asked} >= {"GET", "HEAD"}
