"""What decoding and writing find on this machine: FFmpeg's build, room on disks, limits; for `f2f doctor`."""

from __future__ import annotations

import resource
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from f2f.engine.options import DecodeOptions
from f2f.engine.ring import RING_SLOTS

DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg")
"""what crawls are made of"""
_LEAST_FREE_GB = 5.0
_LEAST_OPEN_FILES = 256


@dataclass(frozen=True)
class MachineState:
    """Findings, and what of them may hold a run up."""

    libraries: dict[str, str]
    """FFmpeg's libraries -> version"""
    decoders: list[str]
    """those of `DECODERS` that this FFmpeg has"""
    hardware: list[str]
    """device types by which it could decode; f2f uses cuda"""
    gpu_hindrance: str
    """why no GPU decodes; empty where one was seen to"""
    free_gb: dict[str, float]
    """the current folder, the folder of temporary files and caches, shared memory -> what is free"""
    open_files: int
    """most files that a process may have open"""
    remarks: tuple[str, ...]
    """what is to be mended, each with how; empty: nothing"""


def look_at_machine() -> MachineState:
    """Look."""
    import av
    import av.codec.hwaccel

    from f2f.engine.decoder import gpu_hindrance

    decoders = [name for name in DECODERS if _can_decode(name)]
    free = {
        "here": _free_gb(Path.cwd()),
        "temporary": _free_gb(Path(tempfile.gettempdir())),
        "shared": _free_gb(Path("/dev/shm")),  # noqa: S108 - the kernel's shared memory
    }
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MachineState(
        libraries={name: ".".join(map(str, found)) for name, found in av.library_versions.items()},
        decoders=decoders,
        hardware=list(av.codec.hwaccel.hwdevices_available()),
        gpu_hindrance=gpu_hindrance(),
        free_gb=free,
        open_files=open_files,
        remarks=tuple(_remarks(decoders, free, open_files)),
    )


def _can_decode(name: str) -> bool:
    import av

    try:
        return bool(av.Codec(name, "r").is_decoder)
    except av.codec.codec.UnknownCodecError:
        return False


def _free_gb(folder: Path) -> float:
    try:
        return round(shutil.disk_usage(folder).free / 1e9, 2)
    except OSError:
        return 0.0


def _remarks(decoders: list[str], free: dict[str, float], open_files: int) -> list[str]:
    found = []
    missing = [name for name in DECODERS if name not in decoders]
    if missing:
        found.append(f"FFmpeg has no decoder for {', '.join(missing)}: such videos fail; install PyAV's own wheel")
    for place in ("here", "temporary"):
        if free[place] < _LEAST_FREE_GB:
            found.append(f"{free[place]} GB are free ({place}): masks and caches may not fit; give --out, --cache room")
    ring_gb = ring_bytes() / 1e9
    if free["shared"] < 4 * ring_gb:
        found.append(
            f"{free['shared']} GB of shared memory are free, decoding wants {4 * ring_gb:.2f}: frames go through "
            "temporary files; in a container give it more (docker: --shm-size)"
        )
    if 0 <= open_files < _LEAST_OPEN_FILES:
        found.append(f"a process may open {open_files} files: raise the limit (ulimit -n {_LEAST_OPEN_FILES})")
    return found


def ring_bytes() -> int:
    """Shared memory that the frames of all decoding processes take with the usual options."""
    usual = DecodeOptions()
    return usual.decoder_count * RING_SLOTS * usual.max_side**2 * 3


def lines(state: MachineState) -> list[str]:
    """For a person: a line per finding."""
    free = ", ".join(f"{place} {gigabytes:.1f} GB" for place, gigabytes in state.free_gb.items())
    return [
        "FFmpeg: " + ", ".join(f"{name} {found}" for name, found in sorted(state.libraries.items())),
        f"  decodes {' '.join(state.decoders)}; hardware it knows: {' '.join(state.hardware) or 'none'}",
        f"  on a GPU: {state.gpu_hindrance or 'works; --decoder auto takes it where it is quicker'}",
        f"free: {free}; open files: {state.open_files}",
        *(f"  to mend: {remark}" for remark in state.remarks),
    ]
