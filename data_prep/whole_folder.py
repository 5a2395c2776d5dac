"""A folder that appears complete or not at all, and whose parts outlive a kill.

It grows in the hidden folder `.NAME.part` beside NAME, held by one process at a time.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from edm3d.data.partial import checked_name, read_moves
from edm3d.errors import InputError

LOCK, WHOLE, MOVES = "lock", "whole", "moves.json"


def lock(file: TextIO, folder: Path) -> None:
    """Takes the lock on `folder` that an open file is; it goes with the process, however that ends.

    Raises `InputError` where another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{folder} is being made by another process; wait for it") from error


def resolved(out: Path) -> Path:
    """The place that --out names, without links; `InputError` where no folder can be made there."""
    try:
        place = out.resolve()
        loops = place.is_symlink()
    except (OSError, RuntimeError):
        place, loops = out, True
    if loops:
        raise InputError(f"--out is {out}, a symbolic link in a loop; remove it or name another")
    return checked_name(place)


@contextlib.contextmanager
def growing(out: Path, parts: str) -> Iterator[Path]:
    """The hidden folder in which `out` grows; begun, or taken up after a kill.

    `parts` names the folder in it that holds finished parts: while there is one, all is kept for
    the next call, whatever went wrong; else nothing is left.

    Raises:
        InputError: `out` is a file, is not empty, or cannot be made, or another process makes it.
    """
    folder = out.with_name(f".{out.name}.part")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, a file; name a folder")
    if out.is_dir() and any(out.iterdir()):
        if (folder / MOVES).exists() and not (folder / WHOLE).exists():
            shutil.rmtree(folder, ignore_errors=True)  # a kill came just after it was handed over
        raise InputError(f"--out is {out}, which is not empty; name a new folder or empty it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / LOCK).open("w")
    except OSError as error:
        raise InputError(
            f"--out is {out}, which cannot be made ({error.strerror}); name another"
        ) from error
    with held:
        lock(held, folder)
        _take_back(folder)
        (folder / parts).mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            if folder.is_dir() and not any((folder / parts).iterdir()):
                shutil.rmtree(folder)


def _take_back(folder: Path) -> None:
    """Undoes the moves of a process that was killed while it put parts under their names."""
    moves = folder / MOVES
    if moves.exists():
        mend = f"remove {folder} to begin anew"
        for name, source in read_moves(moves, mend).items():
            if (folder / WHOLE / name).exists():
                os.replace(folder / WHOLE / name, folder / source)
        shutil.rmtree(folder / WHOLE, ignore_errors=True)
        moves.unlink()


def hand_over(
    folder: Path, sources: dict[str, str], out: Path, complete: Callable[[Path], None]
) -> None:
    """Makes `out` of parts of `folder`: each name of it with its source; `complete` adds the rest.

    The folder of parts is removed.
    """
    shutil.rmtree(folder / WHOLE, ignore_errors=True)
    (folder / WHOLE).mkdir()
    complete(folder / WHOLE)
    temporary = folder / f".{MOVES}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(sources, file)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the name without what it holds
    os.replace(temporary, folder / MOVES)
    for name, source in sources.items():
        os.replace(folder / source, folder / WHOLE / name)
    os.replace(folder / WHOLE, out)
    shutil.rmtree(folder)
