"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with 2.
    """
