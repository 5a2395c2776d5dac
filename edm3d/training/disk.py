"""What a run says when its disk takes no more."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from edm3d.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def whole_steps(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that were written to their end, oldest first."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())


def not_written(error: Exception, what: str, checkpoints: Path) -> Exception:
    """An `InputError` that says how to go on where a full disk is the cause, else the error."""
    number = errno_of(error)
    if number not in _FULL:
        return error
    whole = whole_steps(checkpoints)
    goes_on = f"goes on after update {whole[-1]}" if whole else "starts from update 0"
    newest = f"the newest whole checkpoint is {whole[-1]}" if whole else "there is no checkpoint"
    return InputError(
        f"{what} could not be written under {checkpoints.parent}: {os.strerror(number)}; {newest}; "
        f"free space or raise the quota and run the same command, which {goes_on}"
    )


@contextlib.contextmanager
def told_if_full(what: str, checkpoints: Path) -> Iterator[None]:
    """Turns what a full disk raises within into the `InputError` of `not_written`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise not_written(error, what, checkpoints) from error


def errno_of(error: BaseException) -> int:
    """The operating system's number of an error, which TensorStore has in its text alone."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else 0
