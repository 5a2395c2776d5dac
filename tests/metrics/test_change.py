"""The error of a change on models whose merit is known: copies, oracles and halves."""

import numpy as np
import pytest

from edm3d.metrics import agreement, change


def cohort() -> tuple[np.ndarray, np.ndarray]:
    """Prior and target lung volume in ml of 40 cases, whose change is a tenth of their range."""
    rng = np.random.default_rng(0)
    prior = rng.uniform(700, 2000, 40)
    return prior, prior + rng.normal(150, 60, 40)


def test_a_copy_of_the_prior_scores_nothing_though_its_values_correlate() -> None:
    prior, target = cohort()
    assert agreement.linear_regression(target, prior).r_squared > 0.95
    found = change.change_agreement(prior, target, prior)
    assert (found.regression.slope, found.same_direction) == (0, 0)
    assert found.explained == pytest.approx(0)
    assert found.determination < 0 and found.concordance == 0
    assert found.error.bias == pytest.approx(-found.mean_true)


def test_an_oracle_scores_everything() -> None:
    prior, target = cohort()
    found = change.change_agreement(target, target, prior)
    scores = (found.regression.slope, found.concordance, found.determination, found.explained)
    assert scores == pytest.approx((1, 1, 1, 1))
    assert (found.same_direction, found.error.sd) == (1, 0)


def test_half_the_change_has_half_the_slope_and_the_bias_of_the_values() -> None:
    prior, target = cohort()
    generated = prior + 0.5 * (target - prior)
    found = change.change_agreement(generated, target, prior)
    assert found.regression.slope == pytest.approx(0.5)
    assert found.explained == pytest.approx(0.75)
    of_values = agreement.bland_altman(generated, target)
    assert found.error.upper_ci == pytest.approx(of_values.upper_ci)


def test_cases_that_did_not_change_have_no_direction() -> None:
    found = change.change_agreement([1.0, 3.0, 5.0], [1.0, 2.0, 2.0], [0.0, 2.0, 4.0])
    assert found.same_direction == 0.5
    still = change.change_agreement([1.0, 3.0], [0.0, 2.0], [0.0, 2.0])
    undefined = (still.same_direction, still.explained, still.determination, still.regression.slope)
    assert np.isnan(undefined).all()
    assert still.mean_predicted == 1


def test_residuals_of_known_noise_have_the_correlation_they_must() -> None:
    rng = np.random.default_rng(1)
    prior = rng.normal(-600, 200, (20, 20, 20))
    residual, noise = rng.normal(0, 100, (2, 20, 20, 20))
    mask = np.ones(prior.shape)
    found = change.residual_agreement(prior + residual + noise, prior + residual, prior, mask)
    # 8000 voxels know a correlation to 0.006 and a gain to 0.011
    assert found.r == pytest.approx(np.sqrt(0.5), abs=0.02)
    assert (found.gain, found.relative_error) == pytest.approx((1, 1), abs=0.04)
    assert found.voxels == 8000


def test_a_copied_image_has_a_relative_error_of_one_and_an_oracle_none() -> None:
    rng = np.random.default_rng(2)
    prior, target = rng.normal(-600, 200, (2, 5, 6, 7))
    mask = rng.random(prior.shape) < 0.5
    copy = change.residual_agreement(prior, target, prior, mask)
    assert (copy.gain, copy.relative_error) == (0, 1) and np.isnan(copy.r)
    oracle = change.residual_agreement(target, target, prior, mask)
    assert (oracle.r, oracle.gain, oracle.relative_error) == pytest.approx((1, 1, 0))
    outside = np.where(mask, target, np.nan)
    assert change.residual_agreement(outside, target, prior, mask) == oracle


def test_nothing_changed_leaves_the_ratios_undefined() -> None:
    image = np.ones((2, 2, 2))
    found = change.residual_agreement(image + 1, image, image, image)
    assert np.isnan([found.r, found.gain, found.relative_error]).all()
    corner = np.zeros_like(image)
    corner[0, 0, 0] = 1
    one = change.residual_agreement(image + 1, image + 2, image, corner)
    assert one.voxels == 1 and np.isnan(one.r) and one.gain == 0.5


def test_unusable_changes_are_refused() -> None:
    image = np.ones((2, 2, 2))
    with pytest.raises(ValueError, match="at least 2"):
        change.change_agreement([1.0], [1.0], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        change.change_agreement([1.0, 2.0], [1.0, 2.0], [1.0, np.nan])
    with pytest.raises(ValueError, match="shape"):
        change.residual_agreement(image, image, image[:1], image)
    with pytest.raises(ValueError, match="empty"):
        change.residual_agreement(image, image, image, 0 * image)
    with pytest.raises(ValueError, match="NaN"):
        change.residual_agreement(image * np.nan, image, image, image)
