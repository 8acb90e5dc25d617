"""Readers of manifests, tars and records under a coverage-guided fuzzer: no bytes may raise anything but our errors.

    python benchmarks/fuzz_readers.py [--runs 100000] [--only manifest,…] [--seed 1]      (needs f2f[fuzz])

Every target runs in a process of its own, for `--runs` executions from seeds that are well-formed; every other change
keeps the format (fuzz_mutations.py). A finding ends the target; its input is kept below --keep. Rows go to
`results/fuzz_readers.csv`.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz_mutations import Mutate, json_lines, json_value, tar_header
from record import read_rows, write_rows

from f2f.engine.claims import live_claims
from f2f.engine.errors import F2FError
from f2f.engine.files import sealed
from f2f.engine.options import SourceOptions
from f2f.engine.records import MaskRecord, VideoRecord, gather, read_shard, shard_path, to_json
from f2f.engine.run import read_run
from f2f.engine.source import printable, read_query_map, read_source
from f2f.engine.status import read_status

CLASSES = ("red", "green", "blue")
_PINNED = {
    "shards": [[0, 2]],
    "inputs": [["a", "a.mp4", "red"], ["b", "b.mp4", "red"]],
    "classes": list(CLASSES),
    "options": {"format": "voc", "confidence": False},
    "networks": {},
}
Target = Callable[[bytes, Path], None]
"""reads bytes by way of a folder; raises what nobody expects"""


def _manifest(suffix: str, data: bytes, folder: Path) -> None:
    path = folder / f"manifest{suffix}"
    path.write_bytes(data)
    try:
        rows = read_source(str(path), SourceOptions())
    except F2FError:
        return
    assert rows
    for row in rows:
        printable(row.id).encode()
        assert row.problem or row.location.startswith(str(folder.resolve())), "leaves the folder"
    assert len({row.id for row in rows}) == len(rows)


def csv_manifest(data: bytes, folder: Path) -> None:
    """A .csv manifest."""
    _manifest(".csv", data, folder)


def jsonl_manifest(data: bytes, folder: Path) -> None:
    """A .jsonl manifest."""
    _manifest(".jsonl", data, folder)


def parquet_manifest(data: bytes, folder: Path) -> None:
    """A .parquet manifest."""
    _manifest(".parquet", data, folder)


def video_tar(data: bytes, folder: Path) -> None:
    """A tar of videos with their queries."""
    path = folder / "videos.tar"
    path.write_bytes(data)
    try:
        rows = read_source(str(path), SourceOptions())
    except F2FError:
        return
    for row in rows:
        printable(row.id).encode()
        assert row.problem or row.span is not None
        assert row.span is None or (0 <= row.span[0] <= len(data) and row.span[1] >= 0)  # the tar may be cut off


def query_map(data: bytes, folder: Path) -> None:
    """A file for --query-map."""
    path = folder / "map.json"
    path.write_bytes(data)
    try:
        found = read_query_map(path, CLASSES)
    except F2FError:
        return
    assert all(isinstance(key, str) and isinstance(name, str) for key, name in found.items())


def shard_record(data: bytes, folder: Path) -> None:
    """The record of a committed shard, with its seal mended so that what is behind it is reached."""
    path = shard_path(folder, 0)
    path.parent.mkdir(exist_ok=True)
    for content in (data, _with_seal(data)):
        path.write_bytes(content)
        try:
            record = read_shard(path)
            gather(_PINNED, [record])
        except F2FError:
            continue
        assert record.shard == 0


def run_state(data: bytes, folder: Path) -> None:
    """run.json, and the status of the run that it pins."""
    for content in (data, _with_seal(data)):
        (folder / "run.json").write_bytes(content)
        try:
            read_run(folder)
            read_status(folder)
        except F2FError:
            continue


def claim(data: bytes, folder: Path) -> None:
    """A file in .locks that somebody holds."""
    path = folder / ".locks" / "host-1-1.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            (found,) = live_claims(folder)
        except F2FError:
            return
        assert str(found)
        refuse = sum(shard >= 0 for shard in found.shards)
        assert refuse <= len(found.shards)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        csv_manifest,
        jsonl_manifest,
        parquet_manifest,
        video_tar,
        query_map,
        shard_record,
        run_state,
        claim,
    )
}

MUTATIONS: dict[str, Mutate] = {
    "jsonl_manifest": json_lines,
    "video_tar": tar_header,
    **dict.fromkeys(("query_map", "shard_record", "run_state", "claim"), json_value),
}


def mutate(name: str, data: bytes, rng: Random, blindly: Callable[[], bytes]) -> bytes:
    """Data changed in the way of its format, where there is one for this target, or blindly."""
    return MUTATIONS[name](data, rng) if name in MUTATIONS and rng.random() < 0.5 else blindly()


def _with_seal(data: bytes) -> bytes:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return sealed(data.decode("utf-8", "replace"))
    whole = {key: value for key, value in content.items() if key != "sha256"} if isinstance(content, dict) else content
    return sealed(json.dumps(whole, indent=1))


def seeds() -> dict[str, list[bytes]]:
    """Well-formed inputs of every target."""
    manifest = [
        {"video": "a/b.mp4", "query": "red", "id": "x", "tags": "t"},
        {"video": "c d.mp4", "query": "gr\u00fcn"},
    ]
    video = VideoRecord("a", "a.mp4", "red", "ok", masks=1)
    mask = MaskRecord(
        *("a-0000", "a", "a.mp4", "red", "red"),
        0,
        0,
        ("red",),
        (0.0, 0.5),
        (0.9,),
        (6,),
        80,
        10,
        width_px=12,
        height_px=8,
    )
    shard = {"shard": 0, "videos": [json.loads(to_json(video))], "masks": [json.loads(to_json(mask))]}
    return {
        "csv_manifest": [b'video,query,id,tags\n"a,b.mp4",red,x,t\nc.mp4,green,,\n', b"video,query\n../x.mp4,red\n"],
        "jsonl_manifest": [b"".join(json.dumps(row).encode() + b"\n" for row in manifest)],
        "parquet_manifest": [_parquet(manifest)],
        "video_tar": [
            _tar({"red/0.mp4": b"video", "red/0.json": b'{"caption": "red"}', "1.mp4": b"v", "1.txt": b"red"})
        ],
        "query_map": [b'{"puppy": "red", "Gr\xc3\xbcn": "green"}'],
        "shard_record": [sealed(json.dumps(shard, indent=1))],
        "run_state": [sealed(json.dumps(_PINNED, indent=1))],
        "claim": [b'{"host": "a", "pid": 1, "started_seconds": 1.5, "shards": [0, 1], "inputs": 2}'],
    }


def _parquet(rows: list[dict[str, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


_CHILD = """
import sys
from pathlib import Path
from random import Random
import atheris
with atheris.instrument_imports(include=["f2f", "csv", "json", "tarfile"]):
    import fuzz_readers
name, folder = sys.argv[1], Path(sys.argv[2])
def changed(data, most, seed):
    return fuzz_readers.mutate(name, data, Random(seed), lambda: atheris.Mutate(data, most))[:most]
def once(data):
    fuzz_readers.TARGETS[name](data, folder)
atheris.Setup(sys.argv[:1] + sys.argv[3:], once, custom_mutator=changed)
atheris.Fuzz()
"""


def fuzz(name: str, runs: int, seed: int, keep: Path) -> dict[str, object]:
    """Run a target; a row of what came of it."""
    with tempfile.TemporaryDirectory(prefix="f2f-fuzz-") as folder:
        corpus, work = Path(folder, "corpus"), Path(folder, "work")
        corpus.mkdir()
        work.mkdir()
        for number, data in enumerate(seeds()[name]):
            (corpus / f"seed{number}").write_bytes(data)
        keep.mkdir(parents=True, exist_ok=True)
        flags = [f"-runs={runs}", f"-seed={seed}", f"-artifact_prefix={keep}/{name}-", "-max_len=4096", "-timeout=20"]
        command = [sys.executable, "-c", _CHILD, name, str(work), *flags, str(corpus)]
        start = time.monotonic()
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parent)
        seconds = time.monotonic() - start
    last = re.findall(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr)
    if not last:
        raise RuntimeError(f"{name} did not run: {done.stderr[-2000:]}")
    executions, covered, features, inputs = map(int, last[-1])
    if done.returncode:
        print(done.stderr[-3000:])
    row = {"target": name, "executions": executions, "seconds": round(seconds), "covered_branches": covered}
    return {**row, "features": features, "inputs_kept": inputs, "findings": int(done.returncode != 0)}


def main() -> None:
    """Fuzz and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="executions of every target")
    parser.add_argument("--only", default=",".join(TARGETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder for inputs that are findings")
    given = parser.parse_args()
    rows = []
    for name in given.only.split(","):
        rows.append(fuzz(name, given.runs, given.seed, given.keep.absolute()))
        print(rows[-1], flush=True)
    try:
        kept = [row for row in read_rows("fuzz_readers") if row["target"] not in given.only.split(",")]
    except FileNotFoundError:
        kept = []
    write_rows("fuzz_readers", [*kept, *rows], ("atheris", "pyarrow"))


if __name__ == "__main__":
    main()
