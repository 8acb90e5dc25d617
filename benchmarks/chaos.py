"""Chaos: `f2f label` is killed, starved and stopped again and again; what is there at the end must be what was to be.

python benchmarks/chaos.py [--kills 30] [--seed 0]

Runs of generated videos are compared, byte by byte, with runs that nobody disturbed. After every kill `f2f verify` must
find nothing damaged. What survived goes to `results/chaos.csv`, a row per kind of trouble; anything else is an error.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # its videos and networks

from material import CLASSES, TinyNetworks, contents, crawl, flags
from record import write_rows

from f2f.engine.verify import verify

FORMATS = ("voc", "webdataset")
_VIDEOS, _FRAMES = 18, 48

# A process that ends itself, without any clean-up, right before its n-th touch of a file below OUT.
_CHILD = """
import os, signal, sys
out, last, touched = sys.argv[1], int(sys.argv[2]), 0
touches = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir"}
def watch(event, arguments):
    global touched
    if event in touches and str(arguments[0]).startswith(out):
        touched += 1
        if touched == last:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
from f2f.engine.cli import main
code = main(sys.argv[3:])
sys.stderr.write(f"{touched}\\n")
sys.exit(code)
"""


@dataclass(frozen=True)
class Job:
    """A run of `f2f label`, as a process."""

    source: Path
    out: Path
    flags: tuple[str, ...]

    def command(self, last_touch: int = 0) -> list[str]:
        """Its command line; it dies at its n-th touch of a file (0: never)."""
        label_flags = ["label", str(self.source), "--out", str(self.out), *self.flags]
        return [sys.executable, "-c", _CHILD, str(self.out), str(last_touch), *label_flags]

    def start(self, last_touch: int = 0) -> subprocess.Popen[str]:
        """Start it."""
        command = self.command(last_touch)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self) -> int:
        """Run it to its end; how often it touched files."""
        process = self.start()
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"f2f label ended with exit code {process.returncode}: {said}")
        return int(said.split()[-1])


@dataclass(frozen=True)
class Killer:
    """Kills a process in some way; says whether it died of it."""

    name: str
    kill: Callable[[Job, random.Random], bool]


def at_a_touch(touches: int) -> Killer:
    """Right before one of the job's touches of a file, each as likely as another."""

    def kill(job: Job, rng: random.Random) -> bool:
        process = job.start(rng.randint(1, touches))
        process.communicate()
        return process.returncode == -9

    return Killer("kill -9 before a random file operation", kill)


def at_a_moment(seconds: float) -> Killer:
    """After a random time."""

    def kill(job: Job, rng: random.Random) -> bool:
        process = job.start()
        time.sleep(rng.uniform(0.3, 1.0) * seconds)
        process.kill()
        process.communicate()
        return process.returncode == -9

    return Killer("kill -9 at a random moment", kill)


def survive(job: Job, killer: Killer, kills: int, whole: Path, rng: random.Random) -> int:
    """Kill the job `kills` times, going on with it each time; how many runs that took from beginning to end.

    Raises:
        RuntimeError: something was damaged, or is not what an undisturbed run wrote to `whole`.
    """
    runs, died = 0, 0
    while True:
        if died < kills and killer.kill(job, rng):
            died += 1
            check_nothing_is_damaged(job.out)
            continue
        job.finish()
        check_same(job.out, whole)
        runs += 1
        if died >= kills:
            return runs
        shutil.rmtree(job.out)


def check_nothing_is_damaged(out: Path) -> None:
    """What a kill leaves is whole shards, and files that belong to nothing yet."""
    if (out / "run.json").exists():
        damaged = [one for one in verify(out).problems if one.kind == "damaged"]
        if damaged:
            raise RuntimeError(f"{out} was damaged: {damaged[0]}")


def check_same(out: Path, whole: Path) -> None:
    """Every file is the same."""
    found, expected = contents(out), contents(whole)
    differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if differ or verify(out).problems:
        raise RuntimeError(f"{out} is not what an undisturbed run writes: {differ[:5]}, {verify(out).problems[:3]}")


def kill_rows(folder: Path, networks: TinyNetworks, kills: int, rng: random.Random) -> list[dict[str, object]]:
    """A row per format and way to be killed."""
    names = [f"{query}/{number}.mp4" for query in CLASSES for number in range(_VIDEOS // len(CLASSES))]
    source, rows = crawl(folder / "videos", *names, frames=_FRAMES), list[dict[str, object]]()
    for format_ in FORMATS:
        own = tuple(flags(networks, "--window-stride", "1", "--decoders", "2", "--format", format_))
        whole = Job(source, folder / f"whole-{format_}", own)
        start = time.monotonic()
        touches = whole.finish()
        for killer in (at_a_touch(touches), at_a_moment(time.monotonic() - start)):
            job = Job(source, folder / "killed", own)
            runs = survive(job, killer, kills, whole.out, rng)
            counts = f"{len(contents(whole.out))} files, the same bytes in {runs} of {runs} runs"
            rows.append({"trouble": killer.name, "format": format_, "times": kills, "survived": kills, "end": counts})
            print(rows[-1], flush=True)
            shutil.rmtree(job.out)
    return rows


def main() -> None:
    """Cause all the trouble and write what survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=30, help="of each kind and format")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="f2f-chaos-") as name:
        networks = TinyNetworks.write(Path(name))
        write_rows("chaos", kill_rows(Path(name), networks, given.kills, random.Random(given.seed)))


if __name__ == "__main__":
    main()
