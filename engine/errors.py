"""The exception tree. Every message says what was given, what is accepted, and what to do.

    F2FError                 anything f2f refuses or cannot do; the command line prints it without a traceback
    ├── UsageError           a wrong value, file or combination of options (exit code 2)
    │   ├── NetworkError     a network file that does not keep its contract
    │   └── RunMismatchError an output folder that holds a run with other options, networks or inputs
    ├── MachineError         the machine stopped the run: disk full, read-only, out of memory (exit code 1)
    └── VideoError           one video cannot be used; becomes that video's record, never ends a run

Typical use::

    try:
        summary = label(options)
    except UsageError as error:
        print(error)
"""

from __future__ import annotations

from typing import Literal

FailureClass = Literal["transient", "permanent"]


class F2FError(Exception):
    """Base of everything f2f raises on purpose."""

    exit_code = 1


class UsageError(F2FError):
    """A value, file or combination of options that is not accepted."""

    exit_code = 2


class NetworkError(UsageError):
    """A network file that does not keep the contract of its kind."""


class RunMismatchError(UsageError):
    """The output folder holds a run that differs from the one asked for."""


class MachineError(F2FError):
    """The machine stopped the run; what is committed stays, running again goes on."""


class VideoError(F2FError):
    """One video cannot be used.

    `reason` is a short stable word (`empty`, `not_media`, `no_video_stream`, …), `failure` says whether trying
    again could help.
    """

    def __init__(self, reason: str, detail: str, failure: FailureClass = "permanent") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.failure: FailureClass = failure
