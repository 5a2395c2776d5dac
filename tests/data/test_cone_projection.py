"""Cone-beam line integrals against formulas of rays through ellipsoids, and where shadows fall."""

import numpy as np
import pytest

from edm3d.data.projection import (
    cone_line_integrals,
    line_integrals,
    mean_unit_attenuation,
    ray_paths_mm,
    xray,
    xrays,
)
from edm3d.data.xray_geometry import MU_WATER_PER_MM, Cone, Geometry
from edm3d.diffusion.beam import VIEWS
from edm3d.errors import InputError
from tests.data.phantoms import chest

SPACING_MM = 2.0
SUBVOXELS = 3
SMALL = Cone(1250.0, 1000.0, (80.0, 100.0), 2.5)  # magnifies by 1.25: a voxel's shadow is a cell


def pooled(values, count):
    """Means of `count` neighbours along each axis."""
    for axis in range(values.ndim):
        shape = (*values.shape[:axis], -1, count, *values.shape[axis + 1 :])
        values = values.reshape(shape).mean(axis=axis + 1)
    return values


def ellipsoid_hu(shape, semi_axes_mm, centre_mm):
    """Water in vacuum, edge voxels filled by their share."""
    places = [((np.arange(n * SUBVOXELS) + 0.5) / SUBVOXELS - n / 2) * SPACING_MM for n in shape]
    grid = np.meshgrid(*places, indexing="ij", sparse=True)
    r2 = sum(((p - c) / a) ** 2 for p, c, a in zip(grid, centre_mm, semi_axes_mm, strict=True))
    return 1000.0 * (pooled(r2 < 1, SUBVOXELS) - 1)


def chords_mm(view, cone, semi_axes_mm, centre_mm, oversampling=4):
    """`[u, v]`: the length of the ray to each cell in an ellipsoid, meaned over the cell."""
    size = [n * oversampling for n in cone.cells]
    sides = zip(size, cone.detector_size_mm, strict=True)
    u, v = (((np.arange(n) + 0.5) / n - 0.5) * side_mm for n, side_mm in sides)
    source, towards = np.zeros(3), np.zeros((*size, 3))
    source[view.ray_axis] = view.source_side * cone.source_to_isocentre_mm
    towards[..., 0], towards[..., view.column_axis] = u[:, None], v[None, :]
    towards[..., view.ray_axis] = -view.source_side * cone.source_to_detector_mm
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    d, o = towards / semi_axes_mm, (source - centre_mm) / semi_axes_mm
    a, b = (d * d).sum(-1), d @ o
    return pooled(2 * np.sqrt(np.maximum(b * b - a * (o @ o - 1), 0)) / a, oversampling)


def without_rim(shadow):
    """The shadow less the cells that touch its rim."""
    inside = np.pad(shadow, 1)
    near = [np.roll(inside, s, axis) for axis in (0, 1) for s in (-1, 1)]
    return (inside & np.all(near, axis=0))[1:-1, 1:-1]


@pytest.mark.parametrize("view", ["pa", "lat"])
@pytest.mark.parametrize(
    "semi_axes, centre",
    [((50, 50, 50), (0, 0, 0)), ((70, 45, 60), (0, 0, 0)), ((70, 45, 60), (20, 14, -25))],
)
def test_spheres_and_ellipsoids_cast_their_chord_lengths(view, semi_axes, centre):
    semi_axes, centre = np.array(semi_axes, float), np.array(centre, float)
    volume = ellipsoid_hu((100, 70, 96), semi_axes, centre)
    image = cone_line_integrals(volume, VIEWS[view], Cone(), spacing_mm=SPACING_MM)
    exact = chords_mm(VIEWS[view], Cone(), semi_axes, centre)
    error = image / MU_WATER_PER_MM - exact
    # At the rim a chord rises infinitely fast and voxels blur it; one cell of 1.7 mm is left out.
    inside = without_rim(exact > 0)
    assert np.sqrt(np.mean(error[inside] ** 2)) < 0.005 * exact.max()
    assert image.sum() == pytest.approx(exact.sum() * MU_WATER_PER_MM, rel=1e-3)


@pytest.mark.parametrize("view, axes", [("pa", (0, 2)), ("lat", (0, 1))])
def test_a_voxel_at_the_isocentre_is_magnified_by_the_distances(view, axes):
    volume = np.full((21, 23, 25), -1000, np.int16)
    volume[10, 11, 12] = 0
    image = cone_line_integrals(volume, VIEWS[view], SMALL, spacing_mm=2.0)
    weights = image / image.sum()
    for axis, cells in enumerate(SMALL.cells):
        edges_mm = (np.arange(cells) - (cells - 1) / 2) * 2.5
        assert np.sum(weights.sum(1 - axis) * edges_mm) == pytest.approx(0, abs=1e-4)
    shadow_mm2 = image.sum() * 2.5**2 / (2.0 * MU_WATER_PER_MM)
    assert shadow_mm2 == pytest.approx((1.25 * 2.0) ** 2, rel=1e-4)


@pytest.mark.parametrize("view, axis", [("pa", 2), ("lat", 1), ("pa", 0), ("lat", 0)])
def test_moving_the_isocentre_plane_moves_its_shadow(view, axis):
    """1.25 x a voxel of 2 mm is one cell of 2.5 mm."""
    volume = np.full((21, 21, 21), -1000, np.int16)
    sheet = [slice(8, 13)] * 3
    sheet[VIEWS[view].ray_axis] = slice(10, 11)
    part = volume[tuple(sheet)]
    part[:] = np.random.default_rng(0).integers(-900, 900, part.shape)
    image, moved = (
        cone_line_integrals(v, VIEWS[view], SMALL, spacing_mm=2.0)
        for v in (volume, np.roll(volume, 3, axis))
    )
    moved_back = np.roll(moved, -3, 0 if axis == 0 else 1)
    # The rays' obliquity differs by 3 cells of 2.5 mm in 1250 mm: 2e-4 of the length.
    np.testing.assert_allclose(moved_back, image, atol=4e-4 * image.max())


def test_what_lies_nearer_the_source_casts_the_larger_shadow():
    """PA shines from the back (high y), the lateral view from the subject's right (low x)."""
    volume = np.full((21, 61, 61), -1000, np.int16)

    def area(view, index):
        hu = volume.copy()
        hu[(slice(8, 13), *index)] = 0
        return cone_line_integrals(hu, VIEWS[view], SMALL, spacing_mm=2.0).sum()

    assert area("pa", (55, 30)) > 1.05 * area("pa", (5, 30))
    assert area("lat", (30, 5)) > 1.05 * area("lat", (30, 55))


def test_a_heart_on_the_left_lies_at_the_right_of_the_pa_image():
    volume = np.full((11, 13, 15), -1000, np.int16)
    volume[8, 2, 12] = 0  # high, anterior, left
    pa, lat = xrays(volume, Geometry(cone=SMALL), spacing_mm=2.0)
    rows, columns = SMALL.cells
    for image, right in ((pa, True), (lat, False)):
        u, v = np.unravel_index(np.argmax(image), image.shape)
        assert u > rows / 2 and (v > columns / 2) is np.bool_(right)


def test_flipping_the_volume_flips_the_views():
    volume = chest((20, 22, 24))
    for view, axes in (("pa", (0, 2)), ("lat", (0, 1))):
        flipped = cone_line_integrals(np.flip(volume, axes), VIEWS[view], SMALL, spacing_mm=2.0)
        image = cone_line_integrals(volume, VIEWS[view], SMALL, spacing_mm=2.0)
        np.testing.assert_allclose(flipped, image[::-1, ::-1], rtol=1e-6)


def test_a_far_source_projects_in_parallel():
    volume = chest((20, 22, 24))
    far = Cone(2e6 + 50, 2e6, (40.0, 48.0), 2.0)
    pa = cone_line_integrals(volume, VIEWS["pa"], far, spacing_mm=2.0)
    np.testing.assert_allclose(pa, line_integrals(volume, spacing_mm=2.0)[0], rtol=1e-3, atol=1e-4)


def test_both_views_of_a_far_source_hold_the_same_mass():
    volume = chest((20, 22, 24))
    far = Cone(2e6 + 50, 2e6, (60.0, 60.0), 2.0)
    pa, lat = (cone_line_integrals(volume, VIEWS[v], far, spacing_mm=2.0) for v in VIEWS)
    # Magnified by 1 + 2.5e-5, and by 1e-5 more or less where matter is nearer one source.
    assert pa.sum(dtype=float) == pytest.approx(lat.sum(dtype=float), rel=1e-4)


def test_unit_attenuation_of_a_uniform_volume_is_its_unit_ct_along_slanted_rays():
    volume, geometry = np.full((61, 31, 71), -300, np.int16), Geometry(cone=SMALL)
    image = xray(volume, "pa", geometry, spacing_mm=2.0)
    path = ray_paths_mm("pa", geometry, volume_shape_zyx=volume.shape, spacing_mm=2.0)
    unit = mean_unit_attenuation(image, path_mm=path, mu_water_per_mm=MU_WATER_PER_MM)
    np.testing.assert_allclose(unit, -300 / 1024, rtol=1e-5)  # the beam passes front and back


def test_a_source_inside_the_volume_is_refused():
    near = Cone(100.0, 30.0, (80.0, 80.0), 2.0)
    with pytest.raises(InputError, match=r"source_to_isocentre_mm is 30, but the volume reaches"):
        cone_line_integrals(chest((20, 40, 40)), VIEWS["pa"], near, spacing_mm=2.0)
