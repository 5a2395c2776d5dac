"""DICOM that says in every field who was scanned, and a search for any of it in what came out."""

import gzip
import hashlib
import locale
from pathlib import Path

import numpy as np

from tests.data.dicom_phantoms import SHAPE, SPACING_ZYX
from tests.data.phantoms import chest

MARKERS = {  # every field that tells who, where, when; values that nothing else writes
    "0008|0020": "19770317",
    "0008|0021": "19770318",
    "0008|0022": "19770319",
    "0008|0023": "19770320",
    "0008|0030": "040506.771177",
    "0008|0050": "MARKACCESSION",
    "0008|0080": "MARKHOSPITAL",
    "0008|0081": "MARKADDRESS",
    "0008|0090": "MARKREFERRER",
    "0008|1010": "MARKSTATION",
    "0008|1030": "MARKSTUDY",
    "0008|103e": "MARKSERIES",
    "0008|1070": "MARKOPERATOR",
    "0010|0010": "MARKNAME^JOHN",
    "0010|0020": "MARKID77",
    "0010|0030": "19550505",
    "0010|1000": "MARKOTHERID",
    "0010|1040": "MARKSTREET",
    "0010|4000": "MARKCOMMENT",
    "0018|1000": "MARKSERIAL",
    "0018|1030": "MARKPROTOCOL",
    "0020|000d": "1.2.826.0.1.771177.1",
    "0020|000e": "1.2.826.0.1.771177.2",
    "0020|0010": "MARKSTUDYID",
    "0020|0052": "1.2.826.0.1.771177.3",
    "0020|4000": "MARKIMAGE",
}
IDENTITIES = ("0010|0020", "0010|0030", "0020|000d", "0020|000e", "0020|0052")
SECRETS = [b"MARK", b"771177", b"1977031", b"19770320", b"19550505"]


def write_with_markers(
    folder: Path, seed: int = 0, shape: tuple[int, int, int] = SHAPE, **more: str
) -> np.ndarray:
    """A CT series with every identifying field set, written by SimpleITK; returns its HU."""
    import SimpleITK as sitk

    folder.mkdir(parents=True)
    hu, spoken = chest(shape, seed=seed), locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z, plane in enumerate(hu):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing(SPACING_ZYX[::-1])
        place = {"0020|0032": f"0\\0\\{3 * z}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        kind = {"0008|0060": "CT", "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL", "0018|5100": "HFP"}
        scale = {"0028|1052": "-1024", "0028|1053": "1", "0008|0018": f"1.2.826.0.1.771177.9.{z}"}
        for key, value in (MARKERS | place | kind | scale | more).items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{z}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, spoken)  # ITK's writer leaves "C", in which files are ASCII
    return hu


def contents(folder: Path) -> bytes:
    """All bytes of a folder's files, unpacked, and their names."""
    data = b""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        raw = path.read_bytes()
        data += path.name.encode() + (gzip.decompress(raw) if path.suffix == ".gz" else raw) + raw
    return data


def assert_no_secret(data: bytes, *, digests: bool = True) -> None:
    """Asserts that no marker is in the bytes, nor, with `digests`, an identity's digest."""
    for secret in SECRETS:
        assert secret not in data, secret
    for name in IDENTITIES if digests else ():
        assert hashlib.sha256(MARKERS[name].encode()).hexdigest().encode() not in data, name
