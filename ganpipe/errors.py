"""What can go wrong, by the exit code it ends the command with."""

from __future__ import annotations

import errno
import os
import re


class GanpipeError(Exception):
    """Base of every error that is shown to people as one message, without a traceback."""

    exit_code = 1


class WorkFailed(GanpipeError):
    """The work itself failed (a non-finite loss, a dead child process). Exit code 1."""


class PeerLost(WorkFailed):
    """Another process of the same work ended; what ended that one is the reason to tell."""


class InputError(GanpipeError, ValueError):
    """The input is wrong: a config field, a file, an option. Exit code 2.

    The message names the field or file and says how to mend it.
    """

    exit_code = 2


class GateRefused(GanpipeError):
    """The promotion gate said no. Exit code 3: nothing failed, production is unchanged."""

    exit_code = 3


class Interrupted(GanpipeError):
    """A signal stopped the work after a checkpoint was written; `--resume` continues it."""

    exit_code = 130


def of_the_disk(error: BaseException) -> WorkFailed | None:
    """The error in words, when it says that a disk takes no more; None for what only a traceback explains."""
    number, place = None, None
    if isinstance(error, OSError):
        number, place = error.errno, error.filename2 or error.filename
    elif found := re.search(r"\(os error (\d+)\)", str(error)):  # libraries written in Rust, like safetensors
        number = int(found[1])
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return None
    return WorkFailed(
        f"{place or 'a file'}: {os.strerror(number)}. What was complete before is intact; "
        "free some space, or move GANPIPE_HOME or GANPIPE_STORE, and go on from there"
    )
