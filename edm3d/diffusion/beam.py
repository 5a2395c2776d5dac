"""Where cone-beam rays run: what NumPy (data preparation) and JAX (inside jit) share.

Shapes: n voxels along an axis, d planes of voxels along the beam, u v detector rows and columns.
All places are millimetres from the isocentre, which is the volume's centre; the detector's centre
lies on the ray through it. A beam is the four numbers (source to detector, source to isocentre,
detector pitch, voxel spacing), in mm. Every function takes arrays of either library. Read next:
`edm3d.diffusion.projection`.
"""

from typing import Any, NamedTuple

Array = Any  # of NumPy or JAX
Beam = Any  # four numbers, or an array [4]


class View(NamedTuple):
    """Axes of a `[z, y, x]` volume that the rays and the image's columns run along.

    `source_side` is 1 where the source stands at the high end of the ray's axis, -1 at the low one.
    """

    ray_axis: int
    column_axis: int
    source_side: int

    def planes(self, volume: Array) -> Array:
        """`[z, y, x]` as `[d, z, columns]`."""
        axes = (self.ray_axis, 0, self.column_axis)
        return volume.__array_namespace__().permute_dims(volume, axes)

    def volume(self, planes: Array) -> Array:
        """`[d, z, columns]` as `[z, y, x]`."""
        axes = (1, 0, 2) if self.ray_axis == 1 else (1, 2, 0)
        return planes.__array_namespace__().permute_dims(planes, axes)


# y runs to posterior, x to the subject's left: PA shines from the back, the left lateral view from
# the right, with the left side at the detector.
VIEWS = {"pa": View(1, 2, 1), "lat": View(2, 1, -1)}


def attenuation(volume_hu: Array, mu_water: float) -> Array:
    """mu = mu_water (1 + HU / 1000), never below 0, in the unit of `mu_water`."""
    return mu_water * (1 + volume_hu / 1000.0).clip(0)


def places_mm(index: Array, size: Array, spacing_mm: Array) -> Array:
    """Where the voxels `index` of an axis of `size` voxels have their centres."""
    return (index - (size - 1) / 2) * spacing_mm


def cell_width_mm(depth_mm: Array, beam: Beam) -> Array:
    """`[d]`: a detector cell's width scaled down to planes that lie `depth_mm` to the source."""
    source_to_detector, source_to_isocentre, pitch, _ = beam
    return pitch * (source_to_isocentre - depth_mm) / source_to_detector


def cell_shares(voxels_mm: Array, depth_mm: Array, cells: int, beam: Beam) -> Array:
    """`[d, cells, n]`: the share of a detector cell that a voxel covers, seen from the source.

    One axis of the distance-driven projector (De Man & Basu 2004): cells and voxels are intervals
    in the plane, and a cell is the mean over its width, so neither of them is ever missed.
    """
    xp = voxels_mm.__array_namespace__()
    width = cell_width_mm(depth_mm, beam)[:, None, None]
    low = (xp.arange(cells) - cells / 2)[None, :, None] * width
    half, centre = beam[3] / 2, voxels_mm[None, None, :]
    overlap = xp.minimum(low + width, centre + half) - xp.maximum(low, centre - half)
    return overlap.clip(0) / width


def secants(rows: int, columns: int, beam: Beam, like: Array) -> Array:
    """`[u, v]`: how much longer a cell's ray is between two planes than the central ray.

    `like` is an array of the library that the result shall be of.
    """
    xp = like.__array_namespace__()
    v, u = ((xp.arange(n) - (n - 1) / 2) * beam[2] / beam[0] for n in (columns, rows))
    return xp.sqrt(1 + u[:, None] ** 2 + v[None, :] ** 2)
