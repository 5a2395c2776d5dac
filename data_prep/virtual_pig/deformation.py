"""Where every piece of the chest goes: inflation, base map and a flow that conserves mass locally.

A material element must change its volume by J* (tissue plus gas). The parametric cavity has the
right total volume; Moser's construction (Dacorogna and Moser 1990) then moves tissue inside it
until every element has its own: with D the wanted volume per unit of base-mapped volume, solve
Laplace(p) = D - 1 with no flux through the wall, and follow u = grad(p) / ((1 - t) D + t).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

from .chest import Chest
from .lattice import Lattice, Points, fill_from_nearest, interpolation, lattice_over, sample
from .pig import LungState
from .shape import Pose, cavity_coverage, pose_of_volume, to_reference

FLOW_MM = 4.0
FLOW_STEPS = 4
MAX_PASSES = 6
MEDIASTINUM_TOLERANCE_ML = 1.5
MOST_MEDIASTINUM_OFF = 0.02  # after the last pass
_RATIO_BOUNDS = (0.15, 4.0)
_SOLVER_TOLERANCE = 1e-3
SMOOTHING_VOXELS = 0.75  # of the displacement: the least that keeps the thin recesses unfolded
_LEAST_WEIGHT = 1e-4


@dataclass(frozen=True)
class Inflation:
    """The map of one scan: `pose` and a backward displacement (mm) `[3, z, y, x]` on `lattice`."""

    pose: Pose
    lattice: Lattice
    displacement: np.ndarray


def material_points(inflation: Inflation, points: Points) -> Points:
    """Inverse map: reference coordinates of the tissue now at straight `points` (mm, `[n]`)."""
    weights = interpolation(inflation.lattice, points)
    moved = sample(list(inflation.displacement), weights)
    back = tuple(p + d for p, d in zip(points, moved, strict=True))
    return to_reference(inflation.pose, back)


def scan_pose(state: LungState) -> Pose:
    """The pose whose cavity holds lungs and mediastinum, beside the pleural fluid."""
    held = state.lung_ml + state.pig.mediastinum_ml
    return pose_of_volume(state.pig.chest, held, state.prone, state.effusion_ml)


def inflate(state: LungState) -> Inflation:
    """The map that gives every lung element its volume and leaves the mediastinum's unchanged."""
    pig = state.pig
    pose = scan_pose(state)
    domain = _domain(pose)
    lung, mediastinum = _wanted(state, domain)
    start = np.stack(domain.lattice.points_at(np.nonzero(domain.inside)))
    factor, pressure = 1.0, None
    for _ in range(MAX_PASSES):
        ratio = _balanced(lung, mediastinum, state, factor)
        pressure = _pressure(domain, ratio, pressure)
        end = _flow_back(domain, ratio, pressure, start)
        displacement = _smooth(domain, end - start)
        held = _mediastinum_ml(state, domain, start + displacement[:, domain.inside])
        if abs(held - pig.mediastinum_ml) < MEDIASTINUM_TOLERANCE_ML:
            break
        factor *= pig.mediastinum_ml / held
    if abs(held / pig.mediastinum_ml - 1) > MOST_MEDIASTINUM_OFF:
        raise RuntimeError(f"the mediastinum has {held:.1f} ml, not {pig.mediastinum_ml:.1f}")
    return Inflation(pose, domain.lattice, displacement)


@dataclass(frozen=True)
class _Domain:
    """The voxelised cavity the flow lives in, one connected piece, and its Laplacian."""

    pose: Pose
    lattice: Lattice
    inside: np.ndarray  # bool [z, y, x]
    cover: np.ndarray  # soft coverage of the inside voxels [n]
    laplacian: sparse.csr_array  # minus h^2 Laplacian, Neumann

    @property
    def voxel_ml(self) -> float:
        return self.lattice.voxel_ml


def flow_lattice(chest: Chest) -> Lattice:
    """The grid of the flow: the box any cavity of this chest stays in."""
    s = chest.scale
    low = (-chest.dome - 75 * s, -chest.depth_ventral - 16 * s, -chest.half_width - 16 * s)
    high = (chest.top + 8, chest.depth_dorsal + 16 * s, chest.half_width + 16 * s)
    return lattice_over(low, high, FLOW_MM)


def _domain(pose: Pose) -> _Domain:
    lattice = flow_lattice(pose.chest)
    cover = cavity_coverage(pose, lattice)
    inside = _largest_piece(cover > 0.5)
    return _Domain(pose, lattice, inside, cover[inside], _laplacian(inside))


def _smooth(domain: _Domain, moved: np.ndarray) -> np.ndarray:
    """`moved` `[3, n]` of the inside voxels as a field `[3, z, y, x]` that goes on past the wall.

    Interpolating a field cut off at the wall, or kept there as it is nearby, would fold the map.
    """
    field = np.zeros((3, *domain.inside.shape), np.float32)
    field[:, domain.inside] = moved
    weight = _blurred(domain.inside.astype(np.float32))
    field = np.stack([_blurred(f) for f in field]) / np.maximum(weight, _LEAST_WEIGHT)
    known = weight > _LEAST_WEIGHT
    return fill_from_nearest(field, known)


def _blurred(field: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(field, SMOOTHING_VOXELS, truncate=3.0)


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """A voxel apart would make the Neumann problem unsolvable."""
    label, pieces = ndimage.label(mask)
    if pieces < 2:
        return mask
    return label == 1 + np.argmax(np.bincount(label.ravel())[1:])


def _faces(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The voxels before and after each face along `axis`."""
    before, after = [slice(None)] * 3, [slice(None)] * 3
    before[axis], after[axis] = slice(0, -1), slice(1, None)
    return tuple(before), tuple(after)


def _laplacian(inside: np.ndarray) -> sparse.csr_array:
    """Degree minus adjacency of the inside voxels `[n, n]`: no flux through the wall."""
    n = int(inside.sum())
    number = np.full(inside.shape, -1, np.int32)
    number[inside] = np.arange(n, dtype=np.int32)
    rows, columns = [], []
    for axis in range(3):
        before, after = (number[f] for f in _faces(axis))
        joined = (before >= 0) & (after >= 0)
        rows += [before[joined], after[joined]]
        columns += [after[joined], before[joined]]
    row, column = np.concatenate(rows), np.concatenate(columns)
    degree = np.bincount(row, minlength=n)
    diagonal = np.arange(n, dtype=np.int32)
    values = np.concatenate([degree, np.full(len(row), -1.0)])
    at = (np.concatenate([diagonal, row]), np.concatenate([diagonal, column]))
    return sparse.coo_array((values, at), shape=(n, n)).tocsr()


def _wanted(state: LungState, domain: _Domain) -> tuple[np.ndarray, np.ndarray]:
    """Volume wanted by lung and by mediastinum per base-mapped volume, each `[n]`."""
    material = state.pig.material
    inside = domain.inside
    reference = to_reference(domain.pose, domain.lattice.open_mesh())
    shrink = _determinant(reference, FLOW_MM)[inside]
    weights = interpolation(material.lattice, tuple(r[inside] for r in reference))
    ratio, held = sample([state.volume_ratio, material.mediastinum], weights)
    lung = (1 - held) * np.clip(ratio, *_RATIO_BOUNDS) * shrink
    return lung, held * shrink


def _determinant(mapped: Points, step: float) -> np.ndarray:
    """Jacobian determinant `[z, y, x]` of a map given on a grid, by central differences."""
    (a, b, c), (d, e, f), (g, h, i) = (np.gradient(m, step) for m in mapped)
    det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return np.clip(np.abs(det), 0.2, 5)


def _balanced(
    lung: np.ndarray, mediastinum: np.ndarray, state: LungState, factor: float
) -> np.ndarray:
    """D `[n]` with mean 1, its mediastinal part in proportion to the volume it must keep."""
    n, pig = len(lung), state.pig
    share = factor * pig.mediastinum_ml / (state.lung_ml + pig.mediastinum_ml)
    held = mediastinum * (share * n / mediastinum.sum())
    return held + lung * ((n - held.sum()) / lung.sum())


def _pressure(domain: _Domain, ratio: np.ndarray, guess: np.ndarray | None) -> np.ndarray:
    """p `[n]` with Laplace(p) = D - 1 and no flux through the wall."""
    right = -(ratio.astype(float) - 1) * FLOW_MM**2
    right -= right.mean()
    precondition = sparse.diags_array(1 / np.maximum(domain.laplacian.diagonal(), 1))
    p, failed = cg(
        domain.laplacian, right, guess, rtol=_SOLVER_TOLERANCE, maxiter=800, M=precondition
    )
    if failed:
        raise RuntimeError(f"the pressure did not converge in {failed} iterations")
    return p


def _fluxes(domain: _Domain, pressure: np.ndarray) -> list[np.ndarray]:
    """grad(p) on the faces of each axis (mm), continued past the wall for interpolation."""
    field = np.zeros(domain.inside.shape)
    field[domain.inside] = pressure
    fluxes = []
    for axis in range(3):
        before, after = _faces(axis)
        touches = domain.inside[before] | domain.inside[after]
        open_ = domain.inside[before] & domain.inside[after]
        flux = np.where(open_, (field[after] - field[before]) / FLOW_MM, 0)
        fluxes.append(_continued(flux.astype(np.float32), touches))
    return fluxes


def _continued(field: np.ndarray, known: np.ndarray) -> np.ndarray:
    """One layer of unknown voxels set to the mean of their known neighbours."""
    weight = ndimage.uniform_filter(known.astype(np.float32), 3)
    mean = ndimage.uniform_filter(np.where(known, field, 0), 3) / np.maximum(weight, 1e-3)
    return np.where(known, field, mean)


def _flow_back(
    domain: _Domain, ratio: np.ndarray, pressure: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Points `[3, n]` (mm) carried from t = 1 back to t = 0 by midpoint steps."""
    fluxes = _fluxes(domain, pressure)
    density = np.ones(domain.inside.shape, np.float32)
    density[domain.inside] = ratio
    density = _continued(density, domain.inside)

    def velocity(at: np.ndarray, t: float) -> np.ndarray:
        """u in voxels per unit time at voxel indices `at` `[3, n]`."""
        d = ndimage.map_coordinates(density, at, order=1, mode="nearest")
        flux = [_on_faces(f, at, axis) for axis, f in enumerate(fluxes)]
        return np.stack(flux) / ((1 - t) * d + t) / FLOW_MM

    at = np.stack(domain.lattice.index(tuple(start))).astype(np.float32)
    step = 1 / FLOW_STEPS
    for k in range(FLOW_STEPS):
        t = 1 - k * step
        middle = at - velocity(at, t) * (step / 2)
        at = at - velocity(middle, t - step / 2) * step
    first = np.asarray(domain.lattice.first_zyx_mm)[:, None]
    return at * FLOW_MM + first


def _on_faces(flux: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    shifted = at.copy()
    shifted[axis] -= 0.5
    return ndimage.map_coordinates(flux, shifted, order=1, mode="nearest")


def _mediastinum_ml(state: LungState, domain: _Domain, end: np.ndarray) -> float:
    """Volume of mediastinum that the map would show."""
    material = state.pig.material
    reference = to_reference(domain.pose, tuple(end.astype(np.float32)))
    (held,) = sample([material.mediastinum], interpolation(material.lattice, reference))
    return float((held * domain.cover).sum()) * domain.voxel_ml
