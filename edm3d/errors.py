"""The one exception that means "the user can mend this", and how a command shows it.

`edm3d.diffusion` and `edm3d.metrics` raise `ValueError` instead: they know nothing of edm3d.
"""


class InputError(Exception):
    """Bad input, named with its value and its mend; a command prints it as one line and exits 2.

    The message reads `WHAT is VALUE; MEND`. Where several faults are found at once, each is a line
    of its own.
    """


class DamagedRecord(InputError):
    """A record of the data set that cannot be read or holds what no case can."""
