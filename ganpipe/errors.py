"""What can go wrong, by the exit code it ends the command with."""

from __future__ import annotations


class GanpipeError(Exception):
    """Base of every error that is shown to people as one message, without a traceback."""

    exit_code = 1


class WorkFailed(GanpipeError):
    """The work itself failed (a non-finite loss, a dead child process). Exit code 1."""


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
