"""One process at a time trains into a run folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from edm3d.errors import InputError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def held_alone(run: Path) -> Iterator[None]:
    """Makes `run` and holds it; the kernel lets go of it however the process ends.

    Raises:
        InputError: another process trains in the folder.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"run folder {run} is in use by another edm3d.train; wait for it, or choose "
                f"another config.run"
            ) from error
        yield
