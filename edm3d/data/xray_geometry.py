"""The geometry of the X-rays: what is stored with records and runs, and checked at sampling.

Read next: `edm3d.data.projection` (line integrals in it), `edm3d.data.bedside` (the preset).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edm3d.errors import InputError

MU_WATER_PER_MM = 0.0206  # water at 60 keV, the mean energy of a bedside chest film (NIST)
KINDS = ("parallel", "cone")
PRESETS = ("clean", "bedside")
_MOST_CELLS = 90_000  # a view; four float32 images beside two 128^3 int16 patches stay below 10 MB


@dataclass(frozen=True)
class Cone:
    """A mobile unit: a point source and a flat detector square to the ray through the isocentre.

    The isocentre is the centre of the prior's volume. The defaults magnify it by 1.17.
    """

    source_to_detector_mm: float = 1400.0
    source_to_isocentre_mm: float = 1200.0
    detector_size_mm: tuple[float, float] = (430.0, 430.0)  # rows, columns
    detector_pitch_mm: float = 2.0

    @property
    def cells(self) -> tuple[int, int]:
        """Detector rows and columns."""
        rows, columns = (round(size / self.detector_pitch_mm) for size in self.detector_size_mm)
        return rows, columns

    def beam(self, spacing_mm: float) -> tuple[float, float, float, float]:
        """The four lengths that `edm3d.diffusion.beam` wants."""
        return (
            self.source_to_detector_mm,
            self.source_to_isocentre_mm,
            self.detector_pitch_mm,
            spacing_mm,
        )


@dataclass(frozen=True)
class Bedside:
    """What a bedside X-ray is uncertain in: each image draws from these ranges (low, high).

    Sources: photons and scatter of an ungridded mobile chest film; gain and offset are what is left
    unknown of a film after it was matched to the prior's projection (`edm3d.data.radiograph`).
    """

    seed: int
    photons: tuple[float, float] = (2e4, 1e5)  # unattenuated, per 2 mm x 2 mm bin
    scatter_to_primary: tuple[float, float] = (0.5, 2.0)
    scatter_sigma_mm: tuple[float, float] = (30.0, 40.0)
    gain: tuple[float, float] = (0.9, 1.1)  # of the line integral
    offset: tuple[float, float] = (-0.2, 0.2)
    pose_degrees: float = 3.0  # about each axis, either way


@dataclass(frozen=True)
class Geometry:
    """Parallel beam along the grid's axes, or `cone`; X-rays clean, or `bedside`."""

    mu_water_per_mm: float = MU_WATER_PER_MM
    cone: Cone | None = None
    bedside: Bedside | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What a config's `data` section must state to ask for this geometry."""
        cone = {"cone": dataclasses.asdict(self.cone)} if self.cone else {}
        return {
            "mu_water_per_mm": self.mu_water_per_mm,
            "geometry": "cone" if self.cone else "parallel",
            "xray": "bedside" if self.bedside else "clean",
            **cone,
        }

    def to_json(self) -> dict[str, Any]:
        """As `dataset.json` holds it: lists for tuples, nothing for what is not there."""
        content: dict[str, Any] = {
            "kind": "cone" if self.cone else "parallel",
            "mu_water_per_mm": self.mu_water_per_mm,
        }
        for name in ("cone", "bedside"):
            if part := getattr(self, name):
                content[name] = {k: _listed(v) for k, v in dataclasses.asdict(part).items()}
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Geometry":
        """The geometry that `to_json` wrote."""
        try:
            cone, bedside = (
                _part(of, content, n) for of, n in ((Cone, "cone"), (Bedside, "bedside"))
            )
            geometry = Geometry(content["mu_water_per_mm"], cone, bedside)
            if geometry.to_json() == dict(content):
                return geometry
        except (KeyError, TypeError) as error:
            fault = f"{error}"
        else:
            fault = f"kind {content['kind']!r} does not fit the rest"
        raise InputError(
            f"geometry of dataset.json is {dict(content)} ({fault}); build the records again"
        )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _part(kind: type, content: Mapping[str, Any], name: str) -> Any:
    if name not in content:
        return None
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in content[name].items()})


def geometry_of(data: Mapping[str, Any], seed: int) -> Geometry:
    """The geometry that a config's `data` section asks for; parallel and clean by default.

    Raises `InputError` for names that are none; `check_geometry` looks at the numbers.
    """
    kind, preset = data.get("geometry", "parallel"), data.get("xray", "clean")
    for name, value, known in (("geometry", kind, KINDS), ("xray", preset, PRESETS)):
        if value not in known:
            raise InputError(f"data.{name} is {value!r}; use {' or '.join(known)}")
    cone = Cone(**{k: _numbers(v) for k, v in data.get("cone", {}).items()})
    return Geometry(
        float(data["mu_water_per_mm"]),
        cone if kind == "cone" else None,
        Bedside(seed) if preset == "bedside" else None,
    )


def _numbers(value: Any) -> Any:
    return tuple(float(v) for v in value) if isinstance(value, (tuple, list)) else float(value)


def _cone_faults(cone: Cone) -> Iterator[str]:
    lengths = {k: v for k, v in dataclasses.asdict(cone).items() if k != "detector_size_mm"}
    lengths |= {f"detector_size_mm[{i}]": v for i, v in enumerate(cone.detector_size_mm)}
    for name, value in lengths.items():
        if not (math.isfinite(value) and value > 0):
            yield f"cone.{name} is {value}; give a positive number of millimetres"


def check_geometry(geometry: Geometry) -> None:
    """Raises `InputError` for numbers that no X-ray can be made with."""
    cone = geometry.cone
    if cone is None:
        return
    if len(cone.detector_size_mm) != 2:
        raise InputError(f"cone.detector_size_mm is {cone.detector_size_mm}; give rows, columns")
    if faults := list(_cone_faults(cone)):
        raise InputError("\n".join(faults))
    if cone.source_to_isocentre_mm >= cone.source_to_detector_mm:
        raise InputError(
            f"cone.source_to_isocentre_mm is {cone.source_to_isocentre_mm:g}, not below "
            f"cone.source_to_detector_mm {cone.source_to_detector_mm:g}; the subject lies between"
        )
    rows, columns = cone.cells
    if not 0 < rows * columns <= _MOST_CELLS:
        raise InputError(
            f"cone.detector_pitch_mm is {cone.detector_pitch_mm:g}, {rows} x {columns} cells; give "
            f"a pitch that makes 1 to {_MOST_CELLS} of them"
        )
