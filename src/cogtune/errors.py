"""The errors that a user is expected to read; everything else is a bug and keeps its traceback."""


class UserError(Exception):
    """Something outside the program is wrong (data, weights, disk): one message, exit code 1, no traceback.

    The message names the file or key, what was expected, and what to do.
    """

    exit_code = 1
