"""A folder that appears complete or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edm3d.errors import InputError


@contextmanager
def folder_made_whole(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name on success and vanishes on failure.

    Raises:
        InputError: `out` is a file, is not empty, or cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, a file; name a folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out is {out}, which is not empty; name a new folder or empty it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(
            f"--out is {out}, which cannot be made ({error.strerror}); name another"
        ) from error
    try:
        yield partial
        partial.chmod(0o755)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
