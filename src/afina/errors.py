"""The one error that means "the user can fix this"."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a file, column or parameter that the user can fix.

    The message is one line: which file / column / parameter, what is wrong, what to do.
    Commands print it without a traceback and exit with status 2.
    """
