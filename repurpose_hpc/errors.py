"""The exceptions that stand for a user's mistake rather than a defect of the program, and warnings."""

PREFIX = "repurpose-hpc: error: "


class UserError(Exception):
    """Something the user can mend.

    The message says what was expected, what was found and what to do; the commands print
    it on stderr without a traceback and end every rank with ``status``.
    """

    status = 1


class LacksMemory(UserError):
    """Something for which there is not enough memory here."""


class Note(UserWarning):
    """Something a user should know, though the program goes on; the commands print it on stderr, once."""


class UsageError(UserError):
    """A command line that makes no sense; commands then exit with the status that shells expect."""

    status = 2
