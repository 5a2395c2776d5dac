"""X-rays computed from a CT: line integrals, parallel or cone beam, and the unit they share.

The posterior-anterior (PA) image runs its rays along y, the lateral one (LAT) along x. Rows run
from inferior to superior, columns of PA from the subject's right to its left (a heart on the left
lies at image right), of LAT from anterior to posterior. The whole volume is projected, a table in
it as well. Read next: `edm3d.data.bedside` (noise, scatter, pose), `edm3d.diffusion.projection`
(the same operators on the device).
"""

import numpy as np

from edm3d.data.xray_geometry import MU_WATER_PER_MM, Cone, Geometry
from edm3d.diffusion.beam import VIEWS, View, cell_shares, places_mm, secants
from edm3d.errors import InputError


def line_integrals(
    volume_hu: np.ndarray, *, spacing_mm: float, mu_water_per_mm: float = MU_WATER_PER_MM
) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation summed along parallel rays, dimensionless float32: PA `[z, x]`, LAT `[z, y]`.

    mu = mu_water (1 + HU / 1000), never below 0. `volume_hu` is `[z, y, x]`, isotropic. The sums of
    whole HU are exact, so PA and LAT hold the same total.
    """
    dense_hu = np.maximum(volume_hu, -1000)
    _, ny, nx = volume_hu.shape
    scale = mu_water_per_mm * spacing_mm / 1000.0
    pa = (dense_hu.sum(axis=1, dtype=np.float64) + 1000.0 * ny) * scale
    lat = (dense_hu.sum(axis=2, dtype=np.float64) + 1000.0 * nx) * scale
    return pa.astype(np.float32), lat.astype(np.float32)


def cone_line_integrals(
    volume_hu: np.ndarray,
    view: View,
    cone: Cone,
    *,
    spacing_mm: float,
    mu_water_per_mm: float = MU_WATER_PER_MM,
) -> np.ndarray:
    """Attenuation summed along the rays from the source to each detector cell, float32 `[u, v]`.

    mu as in `line_integrals`. `volume_hu` is `[z, y, x]`, its centre is the isocentre. Raises
    `InputError` where the source stands in the volume.
    """
    planes = view.planes(volume_hu)
    z_mm, depths_mm, columns_mm = (
        places_mm(np.arange(volume_hu.shape[axis]), volume_hu.shape[axis], spacing_mm)
        for axis in (0, view.ray_axis, view.column_axis)
    )
    if depths_mm[-1] + spacing_mm >= cone.source_to_isocentre_mm:
        raise InputError(
            f"cone.source_to_isocentre_mm is {cone.source_to_isocentre_mm:g}, but the volume "
            f"reaches {depths_mm[-1]:.0f} mm from its centre; put the source farther away"
        )
    (rows, columns), beam = cone.cells, cone.beam(spacing_mm)
    image = np.zeros((rows, columns))
    for plane, depth in zip(planes, view.source_side * depths_mm, strict=True):
        image += _seen(plane, z_mm, columns_mm, depth, cone.cells, beam)
    lengths_mm = secants(rows, columns, beam, like=image) * spacing_mm
    return (image * lengths_mm * mu_water_per_mm).astype(np.float32)


def _seen(plane_hu, z_mm, columns_mm, depth_mm: float, cells, beam) -> np.ndarray:
    """`[u, v]`: a plane's density relative to water, averaged over what each cell sees of it.

    Few of the weights are not 0. Sparse products also sum in one order on every machine, where BLAS
    would not: records are the same bytes whatever the number of threads.
    """
    from scipy import sparse

    depth = np.array([depth_mm])
    row_shares, column_shares = (
        sparse.csr_array(cell_shares(places, depth, n, beam)[0])
        for places, n in ((z_mm, cells[0]), (columns_mm, cells[1]))
    )
    density = np.maximum(1 + plane_hu / 1000.0, 0)
    return (column_shares @ (row_shares @ density).T).T


def xray(volume_hu: np.ndarray, name: str, geometry: Geometry, *, spacing_mm: float) -> np.ndarray:
    """The clean X-ray `name`, 'pa' or 'lat', of a volume: line integrals, float32."""
    mu_water = geometry.mu_water_per_mm
    if geometry.cone is None:
        images = line_integrals(volume_hu, spacing_mm=spacing_mm, mu_water_per_mm=mu_water)
        return images[0 if name == "pa" else 1]
    return cone_line_integrals(
        volume_hu, VIEWS[name], geometry.cone, spacing_mm=spacing_mm, mu_water_per_mm=mu_water
    )


def xrays(
    volume_hu: np.ndarray, geometry: Geometry, *, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both clean X-rays of a volume, PA and lateral."""
    if geometry.cone is None:
        mu_water = geometry.mu_water_per_mm
        return line_integrals(volume_hu, spacing_mm=spacing_mm, mu_water_per_mm=mu_water)
    pa, lat = (xray(volume_hu, name, geometry, spacing_mm=spacing_mm) for name in VIEWS)
    return pa, lat


def mean_unit_attenuation(
    image: np.ndarray,
    *,
    path_mm: float | np.ndarray,
    mu_water_per_mm: float,
    scale_hu: float = 1024.0,
) -> np.ndarray:
    """Line integrals as the mean CT value on their ray, in unit CT (HU / `scale_hu`), float32.

    `path_mm` is the volume's extent along the ray: a fixed length, so that the total gas content
    survives. A ray through vacuum gives -1000 / `scale_hu`.
    """
    mean_hu = (image / (path_mm * mu_water_per_mm) - 1.0) * 1000.0
    return (mean_hu / scale_hu).astype(np.float32)


def ray_paths_mm(
    name: str, geometry: Geometry, *, volume_shape_zyx: tuple[int, int, int], spacing_mm: float
) -> float | np.ndarray:
    """How far each ray runs between the volume's two faces: a number, in cone beam `[u, v]`.

    A diverging ray's length is that between the planes of those faces, however far it is off-axis.
    """
    depth_mm = volume_shape_zyx[VIEWS[name].ray_axis] * spacing_mm
    if geometry.cone is None:
        return depth_mm
    beam = geometry.cone.beam(spacing_mm)
    return depth_mm * secants(*geometry.cone.cells, beam, like=np.empty(0))
