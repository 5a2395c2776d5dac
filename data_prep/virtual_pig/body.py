"""The body around the lungs on a scan grid: wall, abdomen with stomach, and the couch below."""

import numpy as np

from .chest import rib_taper, spine_distance, taper
from .lattice import Lattice, Points, coverage, interpolation, paint, sample
from .pig import Pig
from .shape import Pose, diaphragm_z, to_reference
from .skeleton import WallFrame
from .wall import skin_depth

AIR_HU = -1000.0


def body_hu(
    pig: Pig, pose: Pose, lattice: Lattice, straight: Points
) -> tuple[np.ndarray, np.ndarray]:
    """HU of body wall and abdomen in air `[z, y, x]` and the body's soft coverage.

    `straight` are the coordinates of the lattice's voxels in the straight frame.
    """
    frame = _rest_frame(pig, pose, straight, lattice.size_mm)
    body = coverage(-skin_depth(pig.chest, pig.traits.proportions.fat, frame), lattice.size_mm)
    voxels = np.nonzero(body)
    wall = (frame.z[voxels[0], 0, 0], frame.y[voxels], frame.x[voxels])
    (hu,) = sample([pig.body.wall_hu], interpolation(pig.body.lattice, wall))
    here = straight_at(straight, voxels)
    hu = _with_abdomen(pig, pose, here, hu, lattice.size_mm)
    image = np.full(lattice.shape_zyx, AIR_HU, np.float32)
    image[voxels] = paint(image[voxels], body[voxels], hu)
    return image, body


def straight_at(straight: Points, voxels: tuple[np.ndarray, ...]) -> Points:
    """The listed voxels' coordinates out of the mesh `[z, 1, 1]`, `[z, y, 1]`, `[z, 1, x]`."""
    iz, iy, ix = voxels
    z, y, x = straight
    return z[iz, 0, 0], y[iz, iy, 0], x[iz, 0, ix]


def _rest_frame(pig: Pig, pose: Pose, straight: Points, h: float) -> WallFrame:
    """Where each voxel's tissue of the wall is at rest.

    Area of each cross-section is kept: the wall moves out or in without sliding along z.
    """
    z, y, x = straight
    r = np.hypot(y, x) + np.float32(1e-6)
    angle, sin, cos = np.arctan2(y, x), y / r, x / r
    ribs = rib_taper(pig.chest, z).astype(np.float32)
    now, rest = ribs * pose.wall_rho(angle), ribs * pose.rest_rho(angle)
    r_rest = np.sqrt(np.maximum(r * r - now * now + rest * rest, 0.25 * r * r))
    return WallFrame(pig.chest, z, r_rest * sin, r_rest * cos, cos, sin, r_rest - rest, h)


def _with_abdomen(pig: Pig, pose: Pose, at: Points, hu: np.ndarray, h: float) -> np.ndarray:
    """`hu` `[n]` with the abdomen, which follows the diaphragm, laid inside the wall."""
    z, y, x = at
    edge = taper(pig.chest, z) * pose.wall_rho(np.arctan2(y, x))
    below = np.nonzero((np.hypot(y, x) < 1.02 * edge) & (z < diaphragm_z(pose, y, x)))[0]
    z, y, x = z[below], y[below], x[below]
    reference = to_reference(pose.dry, (z, y, x))
    (belly,) = sample([pig.lung.inner_hu], interpolation(pig.lung.lattice, reference))
    belly = _with_stomach(pig, pose, (z, y, x), belly, h)
    bone = coverage(spine_distance(pig.chest, (z, y, x)), h)
    hu[below] = paint(belly, bone, hu[below])
    return hu


def _with_stomach(pig: Pig, pose: Pose, at: Points, hu: np.ndarray, h: float) -> np.ndarray:
    """Stomach (22 HU, wall 45) under the left dome, with a gas bubble on its upper side."""
    z, y, x = at
    s = pig.chest.scale
    y0, x0 = -22 * s, 30 * s
    dome = float(diaphragm_z(pose, np.array(y0), np.array(x0)))
    dy, dz = y - y0, z - dome + 34 * s
    k = np.sqrt(((x - x0) / (30 * s)) ** 2 + (dy / (34 * s)) ** 2 + (dz / (27 * s)) ** 2)
    # Liver or at least the diaphragm lies between the stomach and the lung.
    distance = np.maximum((k - 1) * 29 * s, 0.7 * (z - diaphragm_z(pose, y, x)) + 6 * s)
    hu = paint(hu, coverage(distance - 3, h), 45)
    hu = paint(hu, coverage(distance, h), 22)
    level = 12 * s - dy if pose.prone else dy + 12 * s
    return paint(hu, coverage(distance, h) * coverage(level, h), -990)


def couch_hu(lattice: Lattice, body: np.ndarray, prone: bool) -> np.ndarray:
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
