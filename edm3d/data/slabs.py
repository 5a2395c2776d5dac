"""The stored values of a volume a slab at a time, so that no file lies in memory beside its volume.

Shapes: `[i, j, k]` as the file stores its axes, i fastest. Read next: `edm3d.data.nifti`,
`edm3d.data.images`.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from edm3d.errors import InputError

_SLAB_VOXELS = 2**16  # 512 KiB of float64: a slab and its copies stay in the cache
_PACKED_PIECE = 2**18

Part = tuple[slice, slice, slice]


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Unpacking:
    """Reads a zlib or gzip stream in the pieces that are asked for, its checksum compared."""

    def __init__(self, file: BinaryIO):
        self._file, self._stream = file, zlib.decompressobj(zlib.MAX_WBITS | 32)

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer where the stream ends."""
        data = bytearray()
        while len(data) < size and not self._stream.eof:
            packed = self._stream.unconsumed_tail or self._file.read(_PACKED_PIECE)
            got = self._stream.decompress(packed, size - len(data))
            if not packed and not got:
                break
            data += got
        return bytes(data)

    def at_end(self) -> bool:
        """Whether the stream is whole and holds no byte more."""
        return not self.read(1) and self._stream.eof


def parts_of(shape_xyz: Sequence[int], most: int = _SLAB_VOXELS) -> Iterator[Part]:
    """Indices of parts of at most `most` voxels, or of one row, in the order of the file."""
    nx, ny, nz = shape_xyz
    rows = max(1, most // nx)
    planes = max(1, rows // ny)
    for k in range(0, nz, planes):
        for j in range(0, ny, rows):
            yield slice(0, nx), slice(j, min(j + rows, ny)), slice(k, min(k + planes, nz))


def stored_slabs(
    file: _Readable, shape_xyz: Sequence[int], dtype: np.dtype, path: Path
) -> Iterator[tuple[Part, np.ndarray]]:
    """Each part of a volume and its values `[i, j, k]` as they lie in `file` from here on.

    Raises `InputError` naming `path` where the file ends before the volume does.
    """
    done = 0
    for part in parts_of(shape_xyz):
        shape = [s.stop - s.start for s in part]
        claimed = math.prod(shape) * dtype.itemsize
        data = file.read(claimed)
        done += len(data)
        if len(data) != claimed:
            raise InputError(f"{path} breaks off after {done} bytes of values; copy the file again")
        yield part, np.frombuffer(data, dtype).reshape(shape, order="F")
