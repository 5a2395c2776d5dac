"""SSIM in masks against scikit-image's whole-volume map."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from edm3d.metrics import similarity
from edm3d.metrics.image import FULL_WINDOW_HU, LUNG_WINDOW_HU


def pair(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = ndimage.gaussian_filter(rng.normal(0, 4000, shape), 2) - 400
    return reference + rng.normal(0, 60, shape), reference


def skimage_map(measured: np.ndarray, reference: np.ndarray, window: tuple[float, float]) -> tuple:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is a dev dependency")
    return metrics.structural_similarity(
        measured.clip(*window),
        reference.clip(*window),
        data_range=window[1] - window[0],
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )


@pytest.mark.parametrize("window", [FULL_WINDOW_HU, LUNG_WINDOW_HU])
def test_ssim_in_masks_equals_scikit_image(window: tuple[float, float]) -> None:
    measured, reference = pair((41, 30, 27))  # three slabs
    inner, blob, thin = np.zeros((3, *measured.shape), bool)
    inner[5:-5, 5:-5, 5:-5], blob[9:33, 4:20, 8:27], thin[:, 3, 0] = True, True, True
    masks = {"inner": inner, "blob": blob, "thin": thin}
    found = similarity.similarity(measured, reference, masks, window_hu=window)
    mean, whole = skimage_map(measured, reference, window)
    assert found["inner"].ssim == pytest.approx(mean, abs=1e-12)
    for name, mask in masks.items():
        assert found[name].ssim == pytest.approx(whole[mask].mean(), abs=1e-12)
        assert (found[name].low_hu, found[name].high_hu) == window
        assert found[name].voxels == mask.sum()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_type_of_the_images_does_not_matter(dtype) -> None:
    measured, reference = (a.round().astype(dtype) for a in pair((12, 12, 12)))
    masks = {"all": np.ones(measured.shape, np.uint8)}
    found = similarity.similarity(measured, reference, masks)
    in_double = (a.astype(np.float64) for a in (measured, reference))
    assert found == similarity.similarity(*in_double, masks)


def test_equal_images_are_alike_and_an_empty_mask_has_no_similarity() -> None:
    image, _ = pair((12, 13, 14))
    masks = {"all": np.ones(image.shape), "none": np.zeros(image.shape)}
    found = similarity.similarity(image, image, masks)
    assert found["all"].ssim == pytest.approx(1)
    assert found["none"].voxels == 0 and np.isnan(found["none"].ssim)
    alone = similarity.similarity(image, image, {"none": masks["none"]})
    assert np.isnan(alone["none"].ssim)


def test_a_volume_of_the_grids_size_needs_little_memory() -> None:
    shape = (150, 136, 136)
    measured, reference = np.zeros((2, *shape), np.float32)
    body = np.ones(shape, np.uint8)
    tracemalloc.start()
    similarity.similarity(measured, reference, {"body": body})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6  # one float64 copy of the volume is 22 MB, all at once would be 200 MB


def test_unusable_images_are_refused() -> None:
    cube = np.zeros((8, 8, 8))
    with pytest.raises(ValueError, match="shape"):
        similarity.similarity(cube, cube, {"lung": cube[:4]})
    with pytest.raises(ValueError, match="no mask"):
        similarity.similarity(cube, cube, {})
    with pytest.raises(ValueError, match="NaN"):
        similarity.similarity(cube * np.nan, cube, {"lung": cube + 1})
    with pytest.raises(ValueError, match="window_hu"):
        similarity.similarity(cube, cube, {"lung": cube + 1}, window_hu=(1.0, 1.0))
