"""One scan: the chest of a `LungState` put on a scan grid, first without noise.

HU is linear in density: lung tissue 0, gas -1000, so that -HU/1000 is exactly the gas share.
"""

from dataclasses import dataclass

import numpy as np

from .body import AIR_HU, body_hu, couch_hu, straight_at
from .chest import straightened
from .deformation import Inflation, inflate, material_points
from .lattice import Lattice, Points, interpolation, lattice_over, paint, sample
from .lobes import septum_x
from .mechanics import TISSUE_G_ML
from .pig import LungState, Pig
from .shape import cavity_and_fluid

RIGHT, LEFT = 1, 2  # labels of lungmask's R231
_LEAST_DENSITY = 0.05  # g of tissue per ml of parenchyma


@dataclass(frozen=True)
class Scan:
    """A noise-free scan and its truth, all `[z, y, x]` on `lattice`."""

    lattice: Lattice
    hu: np.ndarray
    lung_cover: np.ndarray  # share of the voxel that is lung
    lung_hu: np.ndarray  # HU of the voxel's lung part; 0 where there is none
    labels: np.ndarray  # uint8, 1 right 2 left
    body_cover: np.ndarray
    fluid_cover: np.ndarray  # share of the voxel that is pleural fluid
    mass_correction: float  # factor on density that made the mass exact
    inflation: Inflation

    @property
    def effusion_ml(self) -> float:
        """Volume of the pleural fluid, ml."""
        return float(self.fluid_cover.sum(dtype=np.float64)) * self.lattice.voxel_ml


def scan_lattice(
    pig: Pig,
    bottom_mm: float,
    spacing_zyx_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> Lattice:
    """A field of view around the body and the couch's upper shell, with a random origin.

    256 mm a side in plane for 33 kg, room for a couch on either side; along z from below
    `bottom_mm`, the deepest recess in any of the pig's scans, to above the cupula.
    """
    c = pig.chest
    side = 256.0 * c.scale / 0.845
    centre_y = (c.depth_dorsal - c.depth_ventral) / 2 + 5
    # A soft edge reaches a voxel past the wall, where the diaphragm falls steeply.
    below = 6 + 2 * max(spacing_zyx_mm)
    low = np.array([bottom_mm - below, centre_y - side / 2, -side / 2])
    low -= rng.uniform(0, 1, 3) * spacing_zyx_mm
    high = (c.top + 12, centre_y + side / 2, side / 2)
    return lattice_over(low, high, spacing_zyx_mm)


def render(state: LungState, lattice: Lattice, *, couch: bool = True) -> Scan:
    """The noise-free scan of `state` on `lattice`."""
    pig, inflation = state.pig, inflate(state)
    straight = straightened(pig.chest, lattice.open_mesh())
    hu, body = body_hu(pig, inflation.pose, lattice, straight)
    cavity, fluid = cavity_and_fluid(inflation.pose, straight, lattice.size_mm)
    voxels = np.nonzero(cavity)
    reference = material_points(inflation, straight_at(straight, voxels))
    content = _content(state, reference, cavity[voxels] * lattice.voxel_ml)
    lung = cavity[voxels] * (1 - content.held)
    inner = content.held * content.inner_hu + (1 - content.held) * content.lung_hu
    hu = paint(hu, cavity + fluid, pig.effusion.hu)
    hu[voxels] += cavity[voxels] * (inner - pig.effusion.hu)
    if couch:
        hu += couch_hu(lattice, body, state.prone) * (1 - body)
    left = reference[2] > septum_x(pig.chest, *reference[:2])
    label = np.where(lung > 0.5, np.where(left, LEFT, RIGHT), 0)
    return Scan(
        lattice=lattice,
        hu=hu,
        lung_cover=_scatter(lattice, voxels, lung),
        lung_hu=_scatter(lattice, voxels, np.where(lung > 0, content.lung_hu, 0)),
        labels=_scatter(lattice, voxels, label, np.uint8),
        body_cover=body,
        fluid_cover=fluid,
        mass_correction=content.mass_correction,
        inflation=inflation,
    )


def _scatter(lattice: Lattice, voxels, values: np.ndarray, dtype=np.float32) -> np.ndarray:
    field = np.zeros(lattice.shape_zyx, dtype)
    field[voxels] = values
    return field


@dataclass(frozen=True)
class _Content:
    """What the cavity's voxels `[n]` hold."""

    held: np.ndarray  # mediastinal share
    inner_hu: np.ndarray
    lung_hu: np.ndarray
    mass_correction: float


def _content(state: LungState, reference: Points, cover_ml: np.ndarray) -> _Content:
    """Atlas and lung state read at reference points; density scaled to the exact lung mass."""
    pig = state.pig
    held, vessel, airway, inner = sample(
        [pig.lung.mediastinum, pig.lung.vessel, pig.lung.airway, pig.lung.inner_hu],
        interpolation(pig.lung.lattice, reference),
    )
    tissue, gas = sample(
        [state.tissue_density * pig.fields.grain, state.gas_density],
        interpolation(pig.material.lattice, reference),
    )
    density = tissue / (tissue / TISSUE_G_ML + np.maximum(gas, 0) + 1e-6)
    lung_ml = cover_ml * (1 - held)
    parenchyma_ml = lung_ml * np.clip(1 - vessel - airway, 0, 1)
    vessels_g = float((lung_ml * vessel).sum(dtype=np.float64)) * TISSUE_G_ML
    density, factor = _with_mass(density, parenchyma_ml, state.mass_g - vessels_g)
    share = vessel + np.clip(1 - vessel - airway, 0, 1) * density / TISSUE_G_ML
    return _Content(held, inner, AIR_HU * (1 - share), factor)


def _with_mass(
    density: np.ndarray, volume_ml: np.ndarray, mass_g: float
) -> tuple[np.ndarray, float]:
    """`density` times the one factor that gives `mass_g`, within air and tissue; the factor."""
    factor, scaled = 1.0, density
    for _ in range(12):
        factor *= mass_g / float((volume_ml * scaled).sum(dtype=np.float64))
        scaled = np.clip(density * factor, _LEAST_DENSITY, TISSUE_G_ML)
    return scaled, factor
