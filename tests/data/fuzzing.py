"""Damages files at random (by fixed seeds) and tells what became of reading them.

    python -m tests.data.fuzzing FOLDER [ROUNDS]

Runs under 6 GB of address space and prints one JSON object a file; `tests.data.test_fuzz` judges.
Every mutation is a function of bytes and a generator to bytes.
"""

import faulthandler
import gzip
import json
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edm3d.data.dicom_tags import DEFLATED, EXPLICIT
from edm3d.data.manifest import read_manifest
from edm3d.data.radiograph import Film, read_radiograph
from edm3d.data.volumes import Grid, Volume, read_ct, read_grid, same_grid
from edm3d.errors import InputError
from tests.data.dicom_phantoms import data_set, enhanced_fields, write_file, write_series
from tests.data.films import explicit_film, ramp, write_dicom, write_picture
from tests.data.mutations import (
    DICOM,
    FILM,
    MANIFEST,
    META,
    NIFTI,
    NIFTI_FILM,
    PNG,
    Mutation,
    truncated,
    zeroed,
)
from tests.data.phantoms import chest, write_manifest

SHAPE = (12, 11, 13)
MARK = "MARKNAME"
MOST_BYTES = 4 * 2**30  # resident; the limit lies above it, so that a test can see it passed
_LIMIT_BYTES = 6 * 2**30
MOST_SECONDS = 20  # of a busy core; the largest volume takes 5 s of an idle one


def _bare_nifti(size: int, slices: int, code: int, bits: int) -> bytes:
    """The header of a NIfTI volume, its type by NIfTI's code."""
    raw = bytearray(352)
    struct.pack_into("<i", raw, 0, 348)
    struct.pack_into("<8h", raw, 40, 3, size, size, slices, 1, 1, 1, 1)
    struct.pack_into("<2h", raw, 70, code, bits)
    struct.pack_into("<8f", raw, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", raw, 108, 352.0)
    struct.pack_into("<2h", raw, 252, 1, 0)
    raw[344:348] = b"n+1\0"
    return bytes(raw)


def _bombs() -> dict[str, bytes]:
    """Small files whose unpacked size, or whose header's claim, is far larger than they are.

    One is of the largest size that is read, in the widest type.
    """
    head, wide = (gzip.compress(_bare_nifti(*s)) for s in ((400, 400, 4, 16), (512, 1024, 64, 64)))
    zeros, many = (gzip.compress(bytes(n)) for n in (8_000_000, 2**24))
    exact = {name: head + count * zeros for name, count in (("exact", 16), ("more", 40))}
    return exact | {"less": head + 3 * zeros, "largest": wide + 128 * many}


def _deflated_bomb() -> bytes:
    """A DICOM file of a megabyte that unpacks to a gigabyte of empty elements."""
    data = data_set({0x00020010: ("UI", DEFLATED)}, EXPLICIT)
    packed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = b"".join(packed.compress(bytes(2**24)) for _ in range(64)) + packed.flush()
    return bytes(128) + b"DICM" + data + body


def _sources(folder: Path) -> dict[str, tuple[Path, list[Mutation], int]]:
    """Good files by kind, what damages them, and how many times each mutation is tried."""
    import nibabel
    import SimpleITK as sitk

    hu, affine = chest(SHAPE), np.diag([-2.0, -2.0, 2.0, 1.0])
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nibabel.save(image, folder / "ct.nii")
    nibabel.save(image, folder / "ct.nii.gz")
    marked = {0x00100010: ("PN", MARK), 0x00080080: ("LO", MARK), 0x00100020: ("LO", MARK)}
    write_series(folder / "series", hu, lambda _, fields: fields | marked)
    write_file(folder / "enhanced.dcm", enhanced_fields(hu) | marked)
    picture = sitk.GetImageFromArray(hu)
    for name in ("plain.mha", "plain.nrrd"):
        sitk.WriteImage(picture, str(folder / name))
    for name in ("packed.mha", "packed.nrrd"):
        sitk.WriteImage(picture, str(folder / name), useCompression=True)
    row = dict(subject="pig1", scan="s1", stage="early", position="supine", phase="inspiration")
    row |= dict(peep_cmh2o="5", tidal_volume_ml_kg="8", ct="ct.nii.gz", split="train")
    write_manifest(folder, [row, row | dict(scan="s2", ct="ct.nii")])
    return {
        "nii": (folder / "ct.nii", NIFTI, 3),
        "nii.gz": (folder / "ct.nii.gz", NIFTI, 3),
        "series": (folder / "series" / "004.dcm", DICOM, 4),
        "enhanced": (folder / "enhanced.dcm", DICOM, 2),
        "compressed": (_compressed(folder / "compressed"), DICOM[:8], 5),
        "plain.mha": (folder / "plain.mha", META, 2),
        "packed.mha": (folder / "packed.mha", META, 2),
        "plain.nrrd": (folder / "plain.nrrd", META, 2),
        "packed.nrrd": (folder / "packed.nrrd", META, 2),
        "csv": (folder / "scans.csv", MANIFEST, 6),
        **_films(folder),
    }


def _films(folder: Path) -> dict[str, tuple[Path, list[Mutation], int]]:
    """As `_sources`, of radiographs."""
    import nibabel

    marked = {0x00100010: ("PN", MARK), 0x00080080: ("LO", MARK)}
    coded = folder / "coded.dcm"
    write_dicom(coded, ramp(64, 64), {"0010|0010": MARK}, compressor="JPEG2000")
    for name in ("film.nii", "film.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(ramp().T, np.diag([1.5, 2, 1, 1])), folder / name)
    return {
        "film.dcm": (write_file(folder / "film.dcm", explicit_film(ramp()) | marked), FILM, 3),
        "film.coded.dcm": (coded, DICOM[:8], 5),
        "film.png": (write_picture(folder / "film.png", ramp()), PNG, 4),
        "film.nii": (folder / "film.nii", NIFTI_FILM, 2),
        "film.nii.gz": (folder / "film.nii.gz", NIFTI_FILM, 2),
    }


def _many_elements() -> bytes:
    """A DICOM file of forty megabytes of empty private elements."""
    data = data_set({0x00020010: ("UI", EXPLICIT)}, EXPLICIT)
    return bytes(128) + b"DICM" + data + b"\x41\0\x10\x10LO\0\0" * 5_000_000


def _compressed(folder: Path) -> Path:
    """A series in JPEG 2000 as GDCM writes it; the path of one of its slices."""
    import SimpleITK as sitk

    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    for z, plane in enumerate(chest((12, 64, 64))):
        picture = sitk.GetImageFromArray(plane[None])
        tags = {"0008|0060": "CT", "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL", "0010|0010": MARK}
        tags |= {"0028|1052": "-1024", "0028|1053": "1", "0020|000e": "1.2.3", "0010|0020": MARK}
        tags |= {"0020|0032": f"0\\0\\{3 * z}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for key, value in tags.items():
            picture.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{z:03d}.dcm"))
        writer.Execute(picture)
    return folder / "004.dcm"


def _prepared(kind: str, source: Path, data: bytes, place: Path) -> Path:
    """Writes damaged bytes to where `source` stood among its neighbours; the path to be read."""
    if kind in ("series", "compressed"):
        shutil.copytree(source.parent, place)
        (place / source.name).write_bytes(data)
        return place
    place.mkdir()
    if kind == "csv":
        for name in ("ct.nii", "ct.nii.gz"):
            shutil.copy(source.with_name(name), place)
    (place / source.name).write_bytes(data)
    return place / source.name


def _alarm(*_) -> None:
    raise TimeoutError(f"over {3 * MOST_SECONDS} s")


def _read(kind: str, path: Path):
    """What a file of this kind is read to."""
    if kind == "csv":
        return read_manifest(path)
    if kind.startswith("film."):
        return read_radiograph(path, "pa", pixel_mm=0.5)
    return read_ct(path)


def _volume_fault(volume: Volume, header: Grid) -> str:
    values = volume.values
    if values.dtype != np.float32 or values.shape != volume.grid.shape_zyx:
        return f"{values.dtype} {values.shape} on {volume.grid.shape_zyx}"
    if not np.all(np.isfinite(values)) or values.min() < -1024 or values.max() > 32767:
        return "values outside HU"
    return "" if same_grid(header, volume.grid) else "the header's grid is not the volume's"


def _film_fault(film: Film) -> str:
    values = film.values
    if values.dtype != np.float32 or values.ndim != 2 or not np.all(np.isfinite(values)):
        return f"{values.dtype} {values.shape} or values that are not finite"
    return "" if min(film.spacing_mm) > 0 else f"pixels of {film.spacing_mm} mm"


def _outcome(kind: str, path: Path, right: Any, must_equal: bool) -> tuple[str, str]:
    """`refused` with the error, `read`, or `wrong` with what is wrong; `right` as of `_read`."""
    try:
        read = _read(kind, path)
        header = read_grid(path) if isinstance(read, Volume) else None
    except InputError as error:
        return "refused", str(error)
    except BaseException:  # whatever it is, the test must hear of it
        return "wrong", traceback.format_exc()
    if isinstance(read, list):
        return "read", str(len(read))
    fault = _film_fault(read) if header is None else _volume_fault(read, header)
    if must_equal and right is not None and not np.array_equal(read.values, right.values):
        fault = "a truncated file read as other values"
    return ("wrong", fault) if fault else ("read", "")


def _judge(name: str, kind: str, path: Path, right: Any, must_equal: bool) -> None:
    signal.alarm(3 * MOST_SECONDS)  # by the clock, which other work may slow
    start = time.process_time()
    what, why = _outcome(kind, path, right, must_equal)
    signal.alarm(0)
    seconds = round(time.process_time() - start, 3)
    print(json.dumps(dict(name=name, outcome=what, why=why, seconds=seconds)), flush=True)


def _mutated(kind: str, data: bytes, mutate: Mutation, rng: np.random.Generator) -> bytes:
    """Damage to a packed file goes to the bytes inside, half the time to those outside."""
    if kind.endswith("nii.gz") and not (mutate in (truncated, zeroed) and rng.random() < 0.5):
        return gzip.compress(mutate(gzip.decompress(data), rng), 1)
    return mutate(data, rng)


def main(folder: Path, rounds: int = 1) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _alarm)
    sources = _sources(folder)
    for kind, (source, mutations, times) in sources.items():
        whole = source.parent if kind in ("series", "compressed") else source
        right = _read(kind, whole)
        for index, mutate in enumerate(mutations * times * rounds):
            rng = np.random.default_rng([index, *kind.encode()])
            name = f"{kind}-{index}"
            data = _mutated(kind, source.read_bytes(), mutate, rng)
            path = _prepared(kind, source, data, folder / name)
            _judge(name, kind, path, right, must_equal=mutate is truncated)
            shutil.rmtree(folder / name)
    for bomb, data in _bombs().items():
        path = folder / f"{bomb}.nii.gz"
        path.write_bytes(data)
        _judge(f"bomb-{bomb}", "nii.gz", path, None, False)
    (folder / "deflated.dcm").write_bytes(_deflated_bomb())
    _judge("bomb-deflated", "enhanced", folder / "deflated.dcm", None, False)
    (folder / "elements.dcm").write_bytes(_many_elements())
    _judge("bomb-elements", "enhanced", folder / "elements.dcm", None, False)
    # unlike ru_maxrss, without what the process that started this one held
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    peak = int(line.split()[1]) * 1024
    print(json.dumps(dict(name="peak", outcome="peak", why=str(peak), seconds=0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
