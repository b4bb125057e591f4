"""The one exception that stands for a user's mistake rather than a defect of the program."""


class UserError(Exception):
    """Something the user can mend.

    The message says what was expected, what was found and what to do; the commands print
    it on stderr without a traceback and end every rank with a non-zero status.
    """
