"""The case: a prior CT, a target CT and all that is known beside them; its record; its folder.

Shapes: blocks are `[z, y, x]` int16 HU; X-rays are line integrals over the whole volume,
`[Z, X]` (PA) and `[Z, Y]` (lateral) in parallel beam, `[rows, columns]` of a detector in cone beam.
Read next: `edm3d.data.pipeline` (batches of crops), `edm3d.data.records` (how the folder is
written).
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import msgpack
import numpy as np

from edm3d.data.record_files import RecordFiles
from edm3d.data.volumes import Grid
from edm3d.errors import DamagedRecord, InputError

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")
UNIT_HU = 1024.0  # unit CT = clip(HU, window) / 1024
DATASET_FILE = "dataset.json"


@dataclass(frozen=True)
class Ventilation:
    """What the ventilator was set to, and the breath-hold's phase (inspiration or expiration)."""

    peep_cmh2o: float
    tidal_volume_ml_kg: float
    phase: str


@dataclass(frozen=True)
class ScalarRanges:
    """The ranges that min-max the ventilator settings to [-1, 1]."""

    peep_cmh2o: tuple[float, float]
    tidal_volume_ml_kg: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Case:
    """One prior/target pair, or a block of it. X-rays and affine belong to the whole volume.

    `film_fits` tells of each view, 'pa' or 'lat', that is a real radiograph how it was brought to
    the scale of the prior's projection: the fields of `edm3d.data.film_match.FilmFit`.
    """

    case_id: str
    subject: str
    prior_scan: str
    target_scan: str
    stage: str
    position: str
    prior_ventilation: Ventilation
    target_ventilation: Ventilation
    prior_hu: np.ndarray
    target_hu: np.ndarray | None
    xray_pa: np.ndarray
    xray_lat: np.ndarray
    prior_xray_pa: np.ndarray
    prior_xray_lat: np.ndarray
    affine_lps: np.ndarray
    volume_shape_zyx: tuple[int, int, int]
    block_start_zyx: tuple[int, int, int] = (0, 0, 0)
    prior_lung_mask: np.ndarray | None = None
    target_lung_mask: np.ndarray | None = None
    film_fits: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return self.prior_hu.shape == self.volume_shape_zyx

    @property
    def grid(self) -> Grid:
        return Grid(self.volume_shape_zyx, self.affine_lps)


def ventilation_vector(case: Case, ranges: ScalarRanges) -> np.ndarray:
    """float32 `[6]`: target PEEP, tidal volume, phase, then the prior's; all in [-1, 1]."""
    settings = (case.target_ventilation, case.prior_ventilation)
    return np.array([v for s in settings for v in _unit_settings(s, ranges)], np.float32)


def _unit_settings(ventilation: Ventilation, ranges: ScalarRanges) -> tuple[float, float, float]:
    def unit(value: float, low_high: tuple[float, float]) -> float:
        low, high = low_high
        return 2.0 * (value - low) / (high - low) - 1.0

    peep = unit(ventilation.peep_cmh2o, ranges.peep_cmh2o)
    tidal_volume = unit(ventilation.tidal_volume_ml_kg, ranges.tidal_volume_ml_kg)
    return peep, tidal_volume, 1.0 if ventilation.phase == "inspiration" else -1.0


# The record: a msgpack map of scalars, and of arrays as [dtype, shape, bytes]. No pickle.


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
        return {"dtype": little.dtype.str, "shape": list(value.shape), "data": little.data}
    return dataclasses.asdict(value) if isinstance(value, Ventilation) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and "dtype" in value:
        return np.frombuffer(value["data"], value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return Ventilation(**value)
    return tuple(value) if isinstance(value, list) else value


def encode_case(case: Case) -> bytes:
    """The case as one msgpack record."""
    fields = {f.name: _packed(getattr(case, f.name)) for f in dataclasses.fields(case)}
    if not case.film_fits:
        del fields["film_fits"]  # the bytes of a record without films are those they always were
    return bytes(msgpack.packb({"schema_version": SCHEMA_VERSION, **fields}) or b"")


def decode_case(record: bytes) -> Case:
    """The case of a record; its arrays are read-only views of the record's bytes.

    Raises:
        DamagedRecord: the bytes are no record, or X-rays or ventilator settings are not finite.
        InputError: the record is of another schema.
    """
    try:
        fields = msgpack.unpackb(record)
        version, fits = fields.pop("schema_version"), fields.pop("film_fits", {})
    except Exception as error:  # whatever msgpack makes of wrong bytes
        raise DamagedRecord(f"record is damaged ({error}); build the records again") from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"schema of a record is {version}, this edm3d reads {SCHEMA_VERSION}; "
            "build the records again"
        )
    try:
        case = Case(**{name: _unpacked(value) for name, value in fields.items()}, film_fits=fits)
    except (TypeError, ValueError, KeyError) as error:
        raise DamagedRecord(f"record is damaged ({error}); build the records again") from error
    if fault := next(_not_finite(case), None):
        raise DamagedRecord(f"record is damaged ({fault}); build the records again")
    return case


def _not_finite(case: Case) -> Iterator[str]:
    for name in ("xray_pa", "xray_lat", "prior_xray_pa", "prior_xray_lat", "affine_lps"):
        if not np.isfinite(getattr(case, name)).all():
            yield f"{name} has values that are not finite"
    for name in ("prior_ventilation", "target_ventilation"):
        settings: Ventilation = getattr(case, name)
        if not np.isfinite((settings.peep_cmh2o, settings.tidal_volume_ml_kg)).all():
            yield f"{name} is {settings}"


# The folder of records.


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says of a folder of records."""

    schema_version: int
    edm3d_version: str
    spacing_mm: float
    window_hu: tuple[float, float]
    residual_std: float  # of unit CT, over the voxels of the training records
    scalar_ranges: ScalarRanges
    geometry: dict[str, Any]  # of the X-rays: edm3d.data.xray_geometry.Geometry.to_json
    antialias: bool
    block: int
    seed: int
    split_by: str  # 'subject', or 'pair': then no claim about new subjects can be made
    subjects: dict[str, list[str]]  # by split
    counts: dict[str, dict[str, int]]  # by split: cases, records
    least_coverage: dict[str, float]  # by split: the least share of a prior that its target covers
    largest_volume_zyx: dict[str, list[int]]  # by split: the most voxels along each axis
    files: dict[str, dict[str, Any]]  # by name: sha256, bytes

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> "DatasetInfo":
        fields = json.loads(text)
        fields["window_hu"] = tuple(fields["window_hu"])
        ranges = {name: tuple(value) for name, value in fields["scalar_ranges"].items()}
        return DatasetInfo(**{**fields, "scalar_ranges": ScalarRanges(**ranges)})


def read_dataset_info(folder: str | Path) -> DatasetInfo:
    """The `dataset.json` of a folder of records (or of a run that copied it)."""
    path = Path(folder) / DATASET_FILE
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a folder made by data_prep/build_records.py")
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text)["schema_version"]
        if version == SCHEMA_VERSION:
            return DatasetInfo.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); build the records again") from error
    raise InputError(
        f"schema of {path} is {version}, this edm3d reads {SCHEMA_VERSION}; build the records again"
    )


class CaseSequence(Sequence[Case]):
    """Random access to the cases of record files; a case is decoded when it is asked for."""

    def __init__(self, paths: Sequence[Path]):
        self._files = RecordFiles(paths)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> list[Case]: ...
    def __getitem__(self, index):
        """A case, or several; `DamagedRecord` names the file and the record's number in it."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        with self._files.naming(index):
            return decode_case(self._files.read(index))

    def fault_of(self, index: int) -> str:
        """What is wrong with a case that was damaged when it was asked for."""
        try:
            self[index]
        except DamagedRecord as error:
            return str(error)
        return f"record {index} of the split could not be read a moment ago; look at the disk"


def record_paths(folder: str | Path, split: str) -> list[Path]:
    """The record files of a split in order, checked against what `dataset.json` lists."""
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; use one of {', '.join(SPLITS)}")
    files = read_dataset_info(folder).files
    paths = [Path(folder) / name for name in sorted(files) if name.startswith(f"{split}-")]
    for path in paths:
        size = path.stat().st_size if path.is_file() else -1
        if size != files[path.name]["bytes"]:
            found = "missing" if size < 0 else f"{size} bytes long"
            raise InputError(
                f"{path} is {found}, not {files[path.name]['bytes']} bytes; build the records again"
            )
    return paths


def read_cases(folder: str | Path, split: str) -> CaseSequence:
    """The cases (train: blocks of cases) of a split, empty where the split is."""
    return CaseSequence(record_paths(folder, split))
