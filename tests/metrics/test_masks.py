"""Overlap and surface distance against SimpleITK's filters."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from edm3d.metrics import masks

SPACING = (2.5, 0.8, 1.3)


def blob(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(20, 34, 28))
    found = ndimage.gaussian_filter(noise, 4) > 0.003
    found[:2], found[-2:], found[:, :3], found[:, -3:] = False, False, False, False
    return found


def itk(mask: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(SPACING[::-1])
    return image


def itk_directed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of a's contour voxels to the nearest contour voxel of b, by ITK alone."""
    contour = sitk.LabelContour(itk(b), fullyConnected=False)
    to_b = sitk.SignedMaurerDistanceMap(contour, False, False, True)
    on_a = sitk.GetArrayFromImage(sitk.LabelContour(itk(a), fullyConnected=False)) == 1
    return np.maximum(sitk.GetArrayFromImage(to_b)[on_a], 0)


def test_dice_equals_simpleitks() -> None:
    a, b = blob(1), blob(2)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(itk(a), itk(b))
    assert masks.dice(a, b) == pytest.approx(overlap.GetDiceCoefficient())


def test_surface_distances_equal_simpleitks_with_unequal_spacing() -> None:
    a, b = blob(1), blob(2)
    found = masks.surface_distance(a, b, SPACING)
    there, back = itk_directed(a, b), itk_directed(b, a)
    assert (found.measured_voxels, found.reference_voxels) == (there.size, back.size)
    # ITK keeps its distances in float32
    assert found.mean_mm == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
    worst = max(np.percentile(there, 95), np.percentile(back, 95))
    assert found.hausdorff95_mm == pytest.approx(worst, rel=1e-5)
    assert found.hausdorff_mm == pytest.approx(max(there.max(), back.max()), rel=1e-5)


def test_greatest_distance_equals_the_hausdorff_filter() -> None:
    a = blob(1)
    b = ndimage.binary_dilation(a, iterations=2)  # its farthest voxel is on its surface
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(itk(a), itk(b))
    found = masks.surface_distance(a, b, SPACING)
    assert found.hausdorff_mm == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-5)


def test_a_shift_by_one_voxel_along_each_axis_is_its_spacing() -> None:
    cube = np.zeros((20, 20, 20), bool)
    cube[6:14, 6:14, 6:14] = True
    for axis, mm in enumerate(SPACING):
        found = masks.surface_distance(np.roll(cube, 1, axis), cube, SPACING)
        assert found.hausdorff_mm == pytest.approx(mm)
        assert 0 < found.mean_mm < found.hausdorff95_mm <= found.hausdorff_mm


def test_measured_and_reference_may_change_places() -> None:
    a, b = blob(1), blob(2)
    one, other = masks.surface_distance(a, b, SPACING), masks.surface_distance(b, a, SPACING)
    assert one.hausdorff95_mm == other.hausdorff95_mm
    assert one.mean_mm == pytest.approx(other.mean_mm)
    assert masks.dice(a, b) == masks.dice(b, a)


def test_the_edge_of_the_volume_is_no_surface() -> None:
    cut = np.zeros((6, 6, 6), bool)
    cut[:3] = True
    assert masks.surface_distance(cut, cut, SPACING).measured_voxels == 36


def test_labels_count_as_inside() -> None:
    a = blob(1)
    assert masks.dice(a * 2, a) == 1
    assert masks.surface_distance(a * np.uint8(2), a, SPACING).hausdorff_mm == 0


def test_empty_masks_have_a_stated_result() -> None:
    a, none = blob(1), np.zeros((20, 34, 28), bool)
    assert masks.dice(a, none) == 0 and np.isnan(masks.dice(none, none))
    found = masks.surface_distance(a, none, SPACING)
    assert found.measured_voxels > 0 and found.reference_voxels == 0
    assert np.isnan([found.mean_mm, found.hausdorff95_mm, found.hausdorff_mm]).all()


def test_unusable_masks_are_refused() -> None:
    a = blob(1)
    with pytest.raises(ValueError, match="shapes"):
        masks.dice(a, a[:5])
    with pytest.raises(ValueError, match="NaN"):
        masks.dice(np.where(a, np.nan, 0), a)
    with pytest.raises(ValueError, match="positive"):
        masks.surface_distance(a, a, (1.0, 0.0, 1.0))
