"""One scan: the chest of a `LungState` put on a scan grid, first without noise.

HU is linear in density: lung tissue 0, gas -1000, so that -HU/1000 is exactly the gas share.
"""

from dataclasses import dataclass

import numpy as np

from .deformation import Inflation, inflate, material_points
from .lattice import Lattice, Points, coverage, interpolation, lattice_over, sample
from .mechanics import TISSUE_G_ML
from .mediastinum import paint
from .pig import LungState, Pig
from .shape import Pose, cavity_coverage, diaphragm_z, taper, to_reference
from .wall import WALL_TAPER_FLOOR, wall_thickness

AIR_HU = -1000.0
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
    mass_correction: float  # factor on density that made the mass exact
    inflation: Inflation


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
    pose = inflation.pose
    hu, body = _body(pig, pose, lattice)
    cavity = cavity_coverage(pose, lattice)
    voxels = np.nonzero(cavity)
    reference = material_points(inflation, lattice.points_at(voxels))
    content = _content(state, reference, cavity[voxels] * lattice.voxel_ml)
    lung = cavity[voxels] * (1 - content.held)
    inner = content.held * content.inner_hu + (1 - content.held) * content.lung_hu
    hu[voxels] = paint(hu[voxels], cavity[voxels], inner)
    if couch:
        hu += _couch(lattice, body, state.prone) * (1 - body)
    label = np.where(lung > 0.5, np.where(reference[2] > 0, LEFT, RIGHT), 0)
    return Scan(
        lattice=lattice,
        hu=hu,
        lung_cover=_scatter(lattice, voxels, lung),
        lung_hu=_scatter(lattice, voxels, np.where(lung > 0, content.lung_hu, 0)),
        labels=_scatter(lattice, voxels, label, np.uint8),
        body_cover=body,
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


def _body(pig: Pig, pose: Pose, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """HU of body wall and abdomen in air `[z, y, x]` and the body's soft coverage."""
    z, y, x = lattice.open_mesh()
    r = np.hypot(y, x) + np.float32(1e-6)
    angle, sin, cos = np.arctan2(y, x), y / r, x / r
    floor = taper(pig.chest, z, WALL_TAPER_FLOOR).astype(np.float32)
    now, rest = floor * pose.rho(angle), floor * pose.rest_rho(angle)
    # Area of each cross-section is kept: the wall moves out or in without sliding along z.
    r_rest = np.sqrt(np.maximum(r * r - now * now + rest * rest, 0.25 * r * r))
    thickness = wall_thickness(pig.chest, pig.traits.proportions.fat, sin, z)
    body = coverage(r_rest - rest - thickness, lattice.size_mm)
    voxels = np.nonzero(body)
    at = r_rest[voxels]
    _, iy, ix = voxels
    wall = (z[voxels[0], 0, 0], at * sin[0, iy, ix], at * cos[0, iy, ix])
    (hu,) = sample([pig.body.wall_hu], interpolation(pig.body.lattice, wall))
    edge = (taper(pig.chest, z) * pose.rho(angle))[voxels]
    hu = _with_abdomen(pig, pose, lattice.points_at(voxels), hu, edge, lattice.size_mm)
    image = np.full(lattice.shape_zyx, AIR_HU, np.float32)
    image[voxels] = paint(image[voxels], body[voxels], hu)
    return image, body


def _with_abdomen(
    pig: Pig, pose: Pose, at: Points, hu: np.ndarray, edge: np.ndarray, h: float
) -> np.ndarray:
    """`hu` `[n]` with the abdomen, which follows the diaphragm, laid inside the wall."""
    z, y, x = at
    below = np.nonzero((np.hypot(y, x) < 1.02 * edge) & (z < diaphragm_z(pose, y, x)))[0]
    z, y, x = z[below], y[below], x[below]
    reference = to_reference(pose, (z, y, x))
    (belly,) = sample([pig.lung.inner_hu], interpolation(pig.lung.lattice, reference))
    hu[below] = _with_stomach(pig, pose, (z, y, x), belly, h)
    return hu


def _with_stomach(pig: Pig, pose: Pose, at: Points, hu: np.ndarray, h: float) -> np.ndarray:
    """Stomach (22 HU) under the left dome, with a gas bubble on its upper side."""
    z, y, x = at
    s = pig.chest.scale
    dz = z - diaphragm_z(pose, y, x) + 36 * s
    dy = y + 22 * s
    k = np.sqrt(((x - 34 * s) / (30 * s)) ** 2 + (dy / (32 * s)) ** 2 + (dz / (26 * s)) ** 2)
    distance = (k - 1) * 28 * s
    hu = paint(hu, coverage(distance, h), 22)
    level = 12 * s - dy if pose.prone else dy + 14 * s
    return paint(hu, coverage(distance + 4, h) * coverage(level, h), -990)


def _couch(lattice: Lattice, body: np.ndarray, prone: bool) -> np.ndarray:
    """HU a curved couch adds below the animal `[1, y, x]`: two shells (-140), foam (-960)."""
    _, y, x = lattice.open_mesh()
    down = -1 if prone else 1
    rows = np.nonzero(body.max(axis=(0, 2)) > 0.5)[0]
    lowest = float((down * y[0, rows, 0]).max())
    depth = down * y - lowest - 3 + 0.0011 * x**2
    h = lattice.size_mm
    shells = coverage(np.abs(depth - 2) - 1.5, h) + coverage(np.abs(depth - 32) - 1.5, h)
    foam = coverage(np.abs(depth - 17) - 13, h)
    return (860 * np.clip(shells, 0, 1) + 40 * foam) * (np.abs(x) < 200)
