"""Records with one fault, made from whole ones."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from edm3d.data.cases import read_cases
from edm3d.errors import DamagedRecord


def damaged_numbers(folder: Path) -> list[int]:
    """The numbers of the training records that cannot be read."""
    cases, numbers = read_cases(folder, "train"), []
    for number in range(len(cases)):
        try:
            cases[number]
        except DamagedRecord:
            numbers.append(number)
    return numbers


def with_flipped_byte(records: Path, copy: Path) -> tuple[Path, int]:
    """A copy with one bit of its last training file flipped, and the record that it hit."""
    shutil.copytree(records, copy)
    path = max(copy.glob("train-*"))
    whole = path.read_bytes()
    for position in range(200, len(whole), 1009):  # between records there is padding
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        if numbers := damaged_numbers(copy):
            return copy, numbers[0]
    raise AssertionError("no flipped bit was noticed")


def with_changed_record(records: Path, copy: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy whose training record 1 has other bytes, under valid hashes."""
    shutil.copytree(records, copy)
    path = min(copy.glob("train-*"))
    reader = ArrayRecordReader(str(path))
    rows = [reader.read([k])[0] for k in range(reader.num_records())]
    reader.close()
    writer = ArrayRecordWriter(str(path), "group_size:1,zstd:1")
    for k, row in enumerate(rows):
        writer.write(change(row) if k == 1 else row)
    writer.close()
    info = json.loads((copy / "dataset.json").read_text())
    content = path.read_bytes()
    sums = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    info["files"][path.name] = sums
    (copy / "dataset.json").write_text(json.dumps(info))
    return copy


def with_nan_xray(record: bytes) -> bytes:
    """The record with a NaN in its PA X-ray."""
    fields = msgpack.unpackb(record)
    image = np.frombuffer(fields["xray_pa"]["data"], fields["xray_pa"]["dtype"]).copy()
    image[3] = np.nan
    fields["xray_pa"]["data"] = image.tobytes()
    return msgpack.packb(fields)
