"""What `f2f doctor` says of FFmpeg, disks and limits."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

from f2f.engine import machine
from f2f.engine.machine import lines, look_at_machine, ring_bytes


def test_this_machine() -> None:
    state = look_at_machine()
    assert state.libraries["libavcodec"].split(".")[0] == str(av.library_versions["libavcodec"][0])
    assert {"h264", "vp9", "mpeg4"} <= set(state.decoders)
    assert state.free_gb["here"] == pytest.approx(shutil.disk_usage(Path.cwd()).free / 1e9, abs=0.5)
    assert state.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    said = "\n".join(lines(state))
    assert f"libavcodec {state.libraries['libavcodec']}" in said
    assert "decodes h264 " in said
    assert f"open files: {state.open_files}" in said


def test_what_is_to_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    missing, limits = {"av1", "hevc"}, (64, 64)
    monkeypatch.setattr(machine, "_can_decode", lambda name: name not in missing)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    state = look_at_machine()
    assert missing.isdisjoint(state.decoders)
    told = "\n".join(lines(state))
    assert "to mend: FFmpeg has no decoder for hevc, av1" in told
    assert "0.0 GB are free (here)" in told
    assert "0.0 GB are free (temporary)" in told
    assert "of shared memory are free" in told
    assert "ulimit -n 256" in told
    assert len(state.remarks) == 5


def test_a_codec_that_nobody_knows() -> None:
    assert machine._can_decode("h264")
    assert not machine._can_decode("no such codec")
    assert ring_bytes() > 0
