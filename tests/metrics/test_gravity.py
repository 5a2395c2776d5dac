"""The density profile along gravity on lungs whose profile is known."""

import numpy as np
import pytest

from edm3d.metrics.gravity import gravity_profile

SPACING = (3.0, 2.0, 1.0)


def lung(hu_by_row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A lung of constant HU in each row of y, in air, three rows from the front."""
    volume, mask = (
        np.full((4, hu_by_row.size + 8, 5), -1000.0),
        np.zeros((4, hu_by_row.size + 8, 5)),
    )
    volume[1:3, 3:-5, 1:4], mask[1:3, 3:-5, 1:4] = hu_by_row[:, None], 2
    return volume, mask


def test_a_linear_lung_gives_its_slope_and_its_levels() -> None:
    volume, mask = lung(-800 + 10.0 * np.arange(20))
    profile = gravity_profile(volume, mask, SPACING, prone=False, levels=5)
    assert profile.slope_hu_per_cm == pytest.approx(10 / 0.2)
    assert profile.mean_hu == pytest.approx(-785 + 40 * np.arange(5))
    assert profile.density_g_per_ml == pytest.approx(0.215 + 0.04 * np.arange(5))
    assert profile.depth_mm == pytest.approx([4, 12, 20, 28, 36])
    assert profile.volume_ml == pytest.approx(np.full(5, 4 * 6 * 0.006))


def test_a_layer_belongs_to_the_level_that_holds_its_centre() -> None:
    profile = gravity_profile(*lung(np.zeros(7)), SPACING, prone=False, levels=3)
    assert profile.volume_ml / (6 * 0.006) == pytest.approx([2, 3, 2])
    halves = gravity_profile(*lung(np.zeros(3)), SPACING, prone=False, levels=2)
    assert halves.volume_ml / (6 * 0.006) == pytest.approx([1, 2])


def test_prone_reads_the_same_lung_from_the_back() -> None:
    volume, mask = lung(np.linspace(-800, -300, 20) ** 2 / -1000)
    supine = gravity_profile(volume, mask, SPACING, prone=False)
    prone = gravity_profile(volume, mask, SPACING, prone=True)
    assert prone.mean_hu == pytest.approx(supine.mean_hu[::-1])
    assert prone.slope_hu_per_cm == pytest.approx(-supine.slope_hu_per_cm)


def test_turning_the_animal_turns_the_profile_with_it() -> None:
    rng = np.random.default_rng(1)
    volume, mask = rng.normal(-500, 100, (6, 12, 7)), rng.random((6, 12, 7)) < 0.3
    supine = gravity_profile(volume, mask, SPACING, prone=False, levels=4)
    turned = gravity_profile(volume[:, ::-1], mask[:, ::-1], SPACING, prone=True, levels=4)
    assert turned.mean_hu == pytest.approx(supine.mean_hu)
    assert turned.volume_ml == pytest.approx(supine.volume_ml)
    assert turned.slope_hu_per_cm == pytest.approx(supine.slope_hu_per_cm)


def test_every_voxel_has_the_same_weight_in_the_slope() -> None:
    rng = np.random.default_rng(0)
    volume, mask = rng.normal(-500, 100, (6, 12, 7)), rng.random((6, 12, 7)) < 0.3
    found = gravity_profile(volume, mask, SPACING, prone=False, levels=3)
    depth_cm = np.nonzero(mask)[1] * 0.2
    assert found.slope_hu_per_cm == pytest.approx(np.polyfit(depth_cm, volume[mask], 1)[0])
    assert found.volume_ml.sum() == pytest.approx(mask.sum() * 0.006)


def test_a_level_without_lung_is_empty_not_zero_hu() -> None:
    volume, mask = lung(np.full(9, -700.0))
    mask[:, 6:9] = 0
    profile = gravity_profile(volume, mask, SPACING, prone=False, levels=3)
    assert profile.volume_ml[1] == 0 and np.isnan(profile.mean_hu[1])
    assert profile.mean_hu[[0, 2]] == pytest.approx([-700, -700])


def test_lung_of_one_layer_has_no_slope() -> None:
    volume, mask = lung(np.array([-700.0]))
    profile = gravity_profile(volume, mask, SPACING, prone=True, levels=1)
    assert np.isnan(profile.slope_hu_per_cm) and profile.mean_hu == pytest.approx([-700])


def test_unusable_lungs_are_refused_and_values_outside_do_not_matter() -> None:
    volume, mask = lung(np.full(4, -700.0))
    with pytest.raises(ValueError, match="4 layers"):
        gravity_profile(volume, mask, SPACING, prone=False, levels=5)
    with pytest.raises(ValueError, match="empty"):
        gravity_profile(volume, 0 * mask, SPACING, prone=False, levels=1)
    with pytest.raises(ValueError, match="shape"):
        gravity_profile(volume, mask[:2], SPACING, prone=False)
    outside = np.where(mask == 0, np.nan, volume)
    gravity_profile(outside, mask, SPACING, prone=False, levels=2)
    with pytest.raises(ValueError, match="NaN"):
        gravity_profile(volume * np.nan, mask, SPACING, prone=False, levels=2)
