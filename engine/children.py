"""Children: Python programs of our own that talk through a pipe.

They are not started through multiprocessing: they import no more than they need, and a user's script needs no
`if __name__ == "__main__"`. They are process groups of their own, so that Ctrl-C and Ctrl-Z reach the parent alone;
without a parent they end by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from f2f.engine.files import machine_errors


def start_child(
    module: str, function: str, environment: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that calls `function` of `module` with the descriptor of its end of a pipe.

    `environment` is added to ours. Returns the process and our end. Raises MachineError where it cannot be started.
    """
    ours, theirs = Pipe()
    program = f"from {module} import {function}; {function}({theirs.fileno()})"
    with machine_errors(Path(sys.executable)):
        process = subprocess.Popen(  # noqa: S603 - this interpreter, our own program
            [sys.executable, "-P", "-c", program],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
            env={**os.environ, **(environment or {})},
        )
    theirs.close()
    return process, ours


def exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit code, given five seconds to end; None while it lives."""
    try:
        return process.wait(5)
    except subprocess.TimeoutExpired:
        return None


def end_child(process: subprocess.Popen[bytes]) -> None:
    """See that it ends: by itself within five seconds, else killed."""
    if exit_code(process) is None:
        process.kill()
        process.wait()


def exit_text(code: int | None) -> str:
    """How a process ended, as the end of a sentence."""
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
