"""Errors for the user; all other exceptions are bugs and keep their traceback."""


class UserError(Exception):
    """An error outside the program (data, weights, disk): one message, exit code 1, no traceback.

    The message names the file or key, what was expected, and what to do.
    """

    exit_code = 1
