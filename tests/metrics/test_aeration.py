"""Lung volume and aeration on lungs whose answer is known by counting."""

import dataclasses

import numpy as np
import pytest

from edm3d.metrics import aeration

SPACING = (2.0, 2.0, 2.0)


def lung(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """A CT whose lung is exactly `values`, in soft tissue; and its mask."""
    volume = np.full((2, 4, len(values)), 40.0, np.float32)
    mask = np.zeros(volume.shape, np.uint8)
    volume[1, 2], mask[1, 2] = values, 1
    return volume, mask


def test_lung_volume_counts_both_labels() -> None:
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[0, 0, :5], mask[1, 0, :5] = 1, 2
    assert aeration.lung_volume_ml(mask, (3.0, 2.0, 1.0)) == pytest.approx(10 * 6 / 1000)
    assert aeration.lung_volume_ml(np.zeros((2, 2, 2)), SPACING) == 0


def test_normally_aerated_interval_is_closed_at_both_ends() -> None:
    volume, mask = lung([-901, -900, -500, -499])
    assert aeration.normally_aerated_fraction(volume, mask) == 50.0


def test_compartments_divide_the_lung_without_gap_or_overlap() -> None:
    volume, mask = lung([-950, -900, -500, -499, -100, -99, 30, 300])
    by_volume = aeration.volume_compartments(volume, mask)
    assert dataclasses.astuple(by_volume) == (12.5, 25.0, 25.0, 37.5)
    by_mass = aeration.mass_compartments(volume, mask)
    assert sum(dataclasses.astuple(by_mass)) == pytest.approx(100)
    assert by_mass.hyper < by_volume.hyper and by_mass.non > by_volume.non


def test_gas_and_tissue_add_up_to_the_lung() -> None:
    volume, mask = lung([-1000, -750, -250, 0, 50])
    measured = aeration.measure(volume, mask, SPACING)
    assert measured.gas_volume_ml == pytest.approx(0.008 * 1.95)
    total = measured.gas_volume_ml + measured.tissue_mass_g
    assert total == pytest.approx(measured.lung_volume_ml)


def test_noise_adds_no_gas_to_consolidated_lung() -> None:
    rng = np.random.default_rng(1)
    mask = np.ones((40, 40, 40), np.uint8)
    noisy = rng.normal(0, 30, mask.shape)
    litres = aeration.gas_volume_ml(noisy, mask, SPACING) / aeration.lung_volume_ml(mask, SPACING)
    assert abs(litres) < 5 * 30 / 1000 / np.sqrt(mask.size)


def test_values_outside_the_lung_do_not_matter() -> None:
    volume, mask = lung([-800, -300])
    other = np.where(mask == 0, np.nan, volume)
    assert aeration.measure(other, mask, SPACING) == aeration.measure(volume, mask, SPACING)


def test_unusable_lungs_are_refused() -> None:
    volume, mask = lung([-800, np.nan])
    with pytest.raises(ValueError, match="NaN"):
        aeration.measure(volume, mask, SPACING)
    with pytest.raises(ValueError, match="empty"):
        aeration.normally_aerated_fraction(volume, np.zeros_like(mask))
    with pytest.raises(ValueError, match="shape"):
        aeration.gas_volume_ml(volume, mask[:1], SPACING)
    with pytest.raises(ValueError, match="positive"):
        aeration.lung_volume_ml(mask, (2.0, 0.0, 2.0))


def test_an_ensemble_is_averaged_over_members_not_over_voxels() -> None:
    high, mask = lung([-950, -300])
    low, _ = lung([-450, -300])
    members = [aeration.measure(hu, mask, SPACING) for hu in (high, low)]
    mean = aeration.mean_over_members(members)
    assert mean.normally_aerated_percent == 0
    assert aeration.measure((high + low) / 2, mask, SPACING).normally_aerated_percent == 50
    assert dataclasses.astuple(mean.volume_percent) == (25, 0, 75, 0)
    assert mean.gas_volume_ml == pytest.approx(np.mean([m.gas_volume_ml for m in members]))
    with pytest.raises(ValueError, match="member"):
        aeration.mean_over_members([])


def test_absolute_compartments_add_up_to_the_lung() -> None:
    volume, mask = lung([-950, -900, -500, -499, -100, -99, 30, 300])
    in_ml = aeration.compartment_volumes_ml(volume, mask, SPACING)
    assert dataclasses.astuple(in_ml) == pytest.approx((0.008, 0.016, 0.016, 0.024))
    in_g = aeration.compartment_masses_g(volume, mask, SPACING)
    assert in_g.non == pytest.approx(0.008 * (0.901 + 1.030 + 1.300))
    measured = aeration.measure(volume, mask, SPACING)
    assert sum(dataclasses.astuple(in_g)) == pytest.approx(measured.tissue_mass_g)
    shares = 100 * np.array(dataclasses.astuple(in_g)) / measured.tissue_mass_g
    assert dataclasses.astuple(measured.mass_percent) == pytest.approx(shares)


def test_recruited_lung_is_mass_that_left_the_non_aerated() -> None:
    collapsed, mask = lung([0, 0, -400, -700])
    # Gas enters one voxel of collapsed lung, which swells to four of the same mass.
    opened, wide = lung([0, -750, -750, -750, -750, -400, -700])
    before, after = (
        aeration.compartment_masses_g(*state, SPACING)
        for state in ((collapsed, mask), (opened, wide))
    )
    found = aeration.recruitment(before, after)
    assert found.recruited_g == pytest.approx(0.008)
    assert found.percent_of_mass == pytest.approx(100 * 1 / 2.9)
    assert sum(dataclasses.astuple(after)) == pytest.approx(sum(dataclasses.astuple(before)))
    assert aeration.recruitment(after, before).recruited_g == -found.recruited_g


def test_recruited_share_is_of_the_mass_before() -> None:
    before, after = aeration.Compartments(0, 50, 0, 50), aeration.Compartments(0, 60, 0, 20)
    assert aeration.recruitment(before, after) == aeration.Recruitment(50, 20, 30, 30)


def test_recruitment_of_a_lung_without_mass_is_refused() -> None:
    nothing = aeration.Compartments(0, 0, 0, 0)
    with pytest.raises(ValueError, match="no mass before"):
        aeration.recruitment(nothing, nothing)
