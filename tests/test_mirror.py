"""Runs whose output is a URL: the same bytes, whatever ends them and wherever they go on; nothing half."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from material import CLASSES, Setup, TinyNetworks, contents, crawl, f2f_command, flags, start_f2f, wait_for
from s3_server import S3Server, s3_server

from f2f.engine import MachineError, UsageError, label, mirror
from f2f.engine.cli import main
from f2f.engine.mirror import Mirror, url_of, work_folder
from f2f.engine.options import LabelOptions, SpreadOptions, WriteOptions

NAMES = tuple(f"{query}/{number}.mp4" for query in CLASSES for number in range(2))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("videos"), *NAMES)


@pytest.fixture(scope="module")
def served() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        fsspec.filesystem("s3").mkdir("masks")
        yield server


@pytest.fixture
def url(served: S3Server, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place at the server; the work folder is this test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("work")))
    monkeypatch.setattr(tempfile, "tempdir", None)  # is asked for anew
    monkeypatch.setattr(mirror, "PAUSE_SECONDS", 0.01)
    yield "s3://masks/run"
    served.fault = lambda _method, _path: ""
    system = fsspec.filesystem("s3")
    system.invalidate_cache()
    for name in system.find("masks"):
        system.rm_file(name)


@pytest.fixture(params=["voc", "webdataset"])
def setup(request: pytest.FixtureRequest) -> Setup:
    return Setup(format=request.param)


def at(url: str) -> dict[str, bytes]:
    """What lies at a URL, as `contents` tells of a folder."""
    system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    system.invalidate_cache()
    found = {name.removeprefix(root + "/"): system.cat_file(name) for name in system.find(root)}
    if "summary.json" in found:
        found["summary.json"] = json.dumps({**json.loads(found["summary.json"]), "account": None}).encode()
    return found


def uploading(options: LabelOptions, url: str) -> LabelOptions:
    return replace(options, write=replace(options.write, upload=url))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("s3://a/b", "s3://a/b"),
        ("gs://a", "gs://a"),
        ("out", None),
        ("/some/s3", None),
        ("memory://x/y/z", "memory://x/y/z"),
    ],
)
def test_urls_that_became_paths(given: str, found: str | None) -> None:
    assert url_of(Path(given)) == found


def test_a_run_at_a_url_is_the_run_in_a_folder(
    setup: Setup, videos: Path, url: str, tmp_path: Path, networks: TinyNetworks
) -> None:
    here = setup.options(videos, tmp_path / "here", networks)
    assert label(here).ok == 6
    there = replace(here, out=Path(url))
    assert label(there).ok == 6
    assert at(url) == contents(here.out)
    left = contents(work_folder(url))
    assert not [name for name in left if name.endswith((".png", ".jpg", ".tar"))], "files are gone once they are there"
    before = at(url)
    assert label(there).ok == 6
    assert at(url) == before


def test_another_machine_goes_on(setup: Setup, videos: Path, url: str, tmp_path: Path, networks: TinyNetworks) -> None:
    """After every kind of end: at a request of the upload, before and behind the commit of a shard."""
    whole = setup.options(videos, tmp_path / "whole", networks)
    label(whole)
    put = Mirror._put
    for number in (2, 3, 5, 9):
        options = uploading(setup.options(videos, tmp_path / f"machine{number}", networks), url)
        left = [number]

        def fail(self: Mirror, name: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise MachineError("the network is gone")
            put(self, name)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Mirror, "_put", fail)
            with pytest.raises(MachineError, match="the network is gone"):
                label(options)
        committed = [name for name in at(url) if name.startswith("shards/")]
        for name in committed:
            record = json.loads(at(url)[name])
            assert record["files"].keys() <= at(url).keys(), "files come before their record"
    assert label(uploading(setup.options(videos, tmp_path / "last", networks), url)).ok == 6
    assert at(url) == contents(whole.out)


def test_killed_and_gone_on_with(
    videos: Path, url: str, tmp_path: Path, networks: TinyNetworks, served: S3Server
) -> None:
    whole = Setup().options(videos, tmp_path / "whole", networks)
    label(whole)
    words: list[str | Path] = ["label", videos, "--out", url, *flags(networks, "--sample-fps", "6")]
    served.asked.clear()
    served.fault = lambda method, path: "503" if method == "PUT" and "shards/000001" in path else ""
    process = start_f2f(*words)
    wait_for(lambda: any("shards/000001" in path for _, path in served.asked), process)
    process.send_signal(signal.SIGKILL)  # between a shard's files and its commit
    process.communicate()
    served.fault = lambda _method, _path: ""
    (claim,) = (name for name in at(url) if name.startswith(".locks/"))
    refused = subprocess.run(f2f_command(*words), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "another run is at work at s3://masks/run" in refused.stderr
    entry = json.loads(at(url)[claim])
    silent = json.dumps({**entry, "heard_seconds": entry["heard_seconds"] - 130}).encode()
    fsspec.filesystem("s3").pipe_file(f"masks/run/{claim}", silent)
    done = subprocess.run(f2f_command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "masks and tables: s3://masks/run" in done.stdout
    assert {name: data for name, data in at(url).items() if not name.startswith(".locks/")} == contents(whole.out)


def test_a_live_run_is_not_disturbed(videos: Path, url: str, tmp_path: Path, networks: TinyNetworks) -> None:
    options = uploading(Setup().options(videos, tmp_path / "one", networks), url)
    with Mirror(url, tmp_path / "other").claimed((1, 2), 4):
        with pytest.raises(UsageError, match="another run is at work at s3://masks/run"):
            label(options)
        first = replace(options, spread=SpreadOptions(shard="0/3"))
        assert label(first).pending == 4, "shards of its own are another matter"
    assert label(options).ok == 6
    assert not [name for name in at(url) if name.startswith(".locks/")]


def test_a_claim_is_renewed(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "BEAT_SECONDS", 0.01)
    with Mirror(url, tmp_path).claimed((0,), 1):
        (name,) = at(url)
        heard = json.loads(at(url)[name])["heard_seconds"]
        end = time.monotonic() + 60
        while json.loads(at(url)[name])["heard_seconds"] == heard:
            assert time.monotonic() < end
    assert at(url) == {}
    assert not [one for one in threading.enumerate() if "beat" in one.name]


def test_commands_read_a_url(
    setup: Setup, videos: Path, url: str, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(videos, tmp_path / "videos"))
    (source / "red" / "0.mp4").rename(tmp_path / "kept.mp4")
    (source / "manifest.csv").write_text("video,query\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in NAMES))
    options = uploading(setup.options(source / "manifest.csv", tmp_path / "work", networks), url)
    assert label(options).failed == 1
    assert main(["status", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 1
    assert main(["verify", url]) == 0
    assert "all as it should be" in capsys.readouterr().out
    assert main(["retry", url, "--class", "transient"]) == 0
    (tmp_path / "kept.mp4").rename(source / "red" / "0.mp4")
    assert label(options).ok == 6
    assert main(["verify", url]) == 0
    mask = next(name for name in at(url) if name.endswith((".png", ".tar")))
    fsspec.filesystem("s3").pipe_file(f"masks/run/{mask}", b"damaged")
    assert main(["verify", url, "--repair"]) == 3
    assert label(options).ok == 6
    assert main(["verify", url]) == 0
    whole = setup.options(source / "manifest.csv", tmp_path / "whole", networks)
    label(whole)
    kept = ("voc/", "webdataset/", "labels.parquet")
    same = [{k: v for k, v in files.items() if k.startswith(kept)} for files in (at(url), contents(whole.out))]
    assert same[0] == same[1]


def test_a_store_that_fails_now_and_then(
    videos: Path, url: str, tmp_path: Path, networks: TinyNetworks, served: S3Server
) -> None:
    seen: dict[str, int] = {}

    def every_third(method: str, path: str) -> str:
        seen[method] = seen.get(method, 0) + 1
        return "503" if method == "PUT" and seen[method] % 3 == 0 else ""

    options = uploading(Setup().options(videos, tmp_path / "one", networks), url)
    served.fault = every_third
    assert label(options).ok == 6
    served.fault = lambda method, path: "503" if method == "PUT" and "shards" in path else ""
    system = fsspec.filesystem("s3")
    system.rm_file("masks/run/shards/000001.json")
    with pytest.raises(MachineError, match=r"s3://masks/run does not answer .* run the same command again to go on"):
        label(options)
    served.fault = lambda _method, _path: ""
    assert label(options).ok == 6


def test_what_cannot_work_is_refused_before_any_work(
    videos: Path, url: str, tmp_path: Path, networks: TinyNetworks, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["label", str(videos), "--out", "s3://nowhere/run", *flags(networks)]
    assert main(words) == 2
    assert "s3://nowhere/run cannot be" in capsys.readouterr().err
    options = Setup().options(videos, tmp_path / "one", networks)
    with pytest.raises(UsageError, match="upload with --devices"):
        replace(uploading(options, url), spread=SpreadOptions(devices="cpu,cpu"))
    with pytest.raises(UsageError, match="a URL such as"):
        WriteOptions(upload="folder")
    with pytest.raises(UsageError, match="give one of them a URL"):
        label(uploading(replace(options, out=Path(url)), url))
    assert at(url) == {}
