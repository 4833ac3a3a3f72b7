"""The one exception a user ever sees."""


class UserError(Exception):
    """A mistake the user can repair: one line that names the value, the place and the remedy.

    The command line prints it without a traceback and exits with status 2; library callers catch
    it like any other exception.
    """
