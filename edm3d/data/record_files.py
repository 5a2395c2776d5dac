"""Files of records: random access to their bytes, and which of them are damaged.

ArrayRecord holds a hash against every record that it reads, so that a flipped byte is an error and
never a wrong voxel. Read next: `edm3d.data.cases`, what a record's bytes say.
"""

import contextlib
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edm3d.errors import DamagedRecord, InputError

if TYPE_CHECKING:
    from grain.sources import ArrayRecordDataSource


class RecordFiles:
    """The records of some files, numbered through."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = list(paths)
        self._source = _source(paths) if paths else None
        self._length = 0 if self._source is None else len(cast(Sized, self._source))

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> bytes:
        """The bytes of a record; raises `DamagedRecord` where they are not those written."""
        if self._source is None:
            raise IndexError(index)
        try:
            return self._source[index]
        except RuntimeError as error:
            raise DamagedRecord(
                f"record is damaged ({_fault(error)}); restore the file or build the records again"
            ) from error

    @contextlib.contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Adds to a `DamagedRecord` raised within it which record of which file it is."""
        try:
            yield
        except DamagedRecord as error:
            raise DamagedRecord(f"{self._place(index)}: {error}") from error

    def _place(self, index: int) -> str:
        """The file of a record and its number there, the first being 0."""
        for path in self._paths:
            count = len(cast(Sized, _source([path])))
            if index < count:
                return f"{path}, record {index}"
            index -= count
        raise IndexError(index)


def _source(paths: Sequence[Path]) -> "ArrayRecordDataSource":
    """Random access to the records' bytes; `InputError` where a file's index cannot be read."""
    from grain.sources import ArrayRecordDataSource

    try:
        return ArrayRecordDataSource([str(path) for path in paths])
    except RuntimeError as error:
        if len(paths) > 1:
            for path in paths:  # ArrayRecord does not say which
                _source([path])
        raise InputError(
            f"{paths[0]} is damaged ({_fault(error)}); restore it or build the records again"
        ) from error


def _fault(error: RuntimeError) -> str:
    return " ".join(str(error).split(";")[0].split())
