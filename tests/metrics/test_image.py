"""Voxel errors against scikit-image and known answers."""

import numpy as np
import pytest

from edm3d.metrics import image


def test_psnr_equals_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is a dev dependency")
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 300, (2, 8, 9, 10))
    error = image.image_error(a, b, data_range=1400.0)
    ours = (error.psnr_db, error.rmse**2)
    theirs = (
        metrics.peak_signal_noise_ratio(b, a, data_range=1400),
        metrics.mean_squared_error(a, b),
    )
    assert ours == pytest.approx(theirs)


def test_errors_are_those_inside_the_mask() -> None:
    reference = np.zeros((3, 3, 3))
    measured, mask = reference + 1000, np.zeros((3, 3, 3), np.uint8)
    mask[0, 0, :2] = 1, 2
    measured[0, 0, :2] = 10, -30
    error = image.image_error(measured, reference, mask=mask)
    assert (error.voxels, error.mae) == (2, 20.0)
    assert error.rmse == pytest.approx(np.sqrt(500))


def test_integer_images_do_not_overflow() -> None:
    low, high = np.full((2, 2, 2), -32000, np.int16), np.full((2, 2, 2), 32000, np.int16)
    assert image.image_error(high, low).mae == 64000


def test_equal_images_have_infinite_psnr() -> None:
    assert image.image_error(np.ones(4), np.ones(4)).psnr_db == float("inf")


def test_unusable_images_are_refused() -> None:
    ones = np.ones((2, 2))
    with pytest.raises(ValueError, match="NaN"):
        image.image_error(ones * np.nan, ones)
    with pytest.raises(ValueError, match="empty"):
        image.image_error(ones, ones, mask=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="shape"):
        image.image_error(ones, np.ones(2))
    with pytest.raises(ValueError, match="data_range"):
        image.image_error(ones, ones, data_range=0.0)


def test_a_window_clips_both_images_and_is_the_data_range() -> None:
    measured, reference = np.array([-2000.0, 0.0, 200.0]), np.array([-1200.0, 100.0, 900.0])
    found = image.windowed_error(measured, reference, image.LUNG_WINDOW_HU)
    assert (found.low_hu, found.high_hu) == image.LUNG_WINDOW_HU
    assert (found.error.mae, found.error.data_range) == (pytest.approx(100 / 3), 1400.0)
    full = image.windowed_error(measured, reference, image.FULL_WINDOW_HU, mask=np.array([0, 1, 0]))
    assert (full.error.mae, full.error.data_range) == (100, image.FULL_RANGE_HU)


def test_infinity_in_both_images_is_not_taken_for_agreement() -> None:
    broken = np.array([1.0, np.inf])
    with pytest.raises(ValueError, match="infinity"):
        image.windowed_error(broken, broken, image.LUNG_WINDOW_HU)


def test_a_window_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="data_range is -1400"):
        image.windowed_error(np.ones(2), np.ones(2), image.LUNG_WINDOW_HU[::-1])
