"""The scanner: point spread, calibration, and noise with the properties of back-projection."""

import numpy as np
import pytest

from data_prep.virtual_pig.ct import EXACT, Calibration, acquire, drifted
from data_prep.virtual_pig.deformation import scan_pose
from data_prep.virtual_pig.lattice import Lattice, lattice_over
from data_prep.virtual_pig.mechanics import Ventilator
from data_prep.virtual_pig.noise import NOISE_HU_AT_2MM, REFERENCE_PATH_MM, quantum_noise
from data_prep.virtual_pig.pig import build_pig, lung_state, ventilate
from data_prep.virtual_pig.render import render, scan_lattice
from data_prep.virtual_pig.shape import cavity_bottom_mm


def grid(step: float = 2.0, slices: int = 24, side_mm: float = 240.0, thick=None) -> Lattice:
    thick = thick or step
    half = side_mm / 2
    return lattice_over((0, -half, -half), (slices * thick, half, half), (thick, step, step))


def water(lattice: Lattice, half_y_mm: float, half_x_mm: float) -> np.ndarray:
    """An elliptic cylinder of water in air `[z, y, x]`."""
    z, y, x = lattice.open_mesh()
    inside = (y / half_y_mm) ** 2 + (x / half_x_mm) ** 2 < 1
    return np.where(inside, 0.0, -1000.0).astype(np.float32) + 0 * z


def disc(lattice: Lattice, y_mm: float = 0, x_mm: float = 0, radius_mm: float = 24) -> np.ndarray:
    _, y, x = lattice.open_mesh()
    return (np.hypot(y - y_mm, x - x_mm) < radius_mm)[0]


def noise(lattice: Lattice, hu: np.ndarray, dose: float = 1.0, seed: int = 0) -> np.ndarray:
    return quantum_noise(hu, lattice, np.random.default_rng(seed), dose=dose)


def power(n: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In-plane noise power `[y, x]` in HU^2 mm^2 of `[z, y, x]`, with its fy and fx (1/mm)."""
    p = (np.abs(np.fft.fft2(n)) ** 2).mean(0) * step**2 / (n.shape[1] * n.shape[2])
    fy, fx = np.fft.fftfreq(n.shape[1], step)[:, None], np.fft.fftfreq(n.shape[2], step)
    return p, *np.broadcast_arrays(fy, fx)


@pytest.fixture(scope="module")
def round_phantom() -> tuple[Lattice, np.ndarray, np.ndarray]:
    lattice = grid(slices=60)
    radius = REFERENCE_PATH_MM / 2
    hu = water(lattice, radius, radius)
    return lattice, hu, noise(lattice, hu)


def test_the_middle_of_the_reference_cylinder_shows_the_nominal_noise(round_phantom):
    """Within 4 %: 60 slices of 450 correlated pixels, a 5 mm copy, 8 mm bins."""
    lattice, _, n = round_phantom
    assert n[:, disc(lattice)].std() == pytest.approx(NOISE_HU_AT_2MM, rel=0.04)


def test_noise_has_no_mean_and_no_low_frequencies(round_phantom):
    """A ramp filter takes DC away: slices average to far less than white noise would."""
    _, hu, n = round_phantom
    white = n.std() / np.sqrt(hu[0].size)
    assert abs(n.mean()) < 0.02
    assert n.mean((1, 2)).std() < 0.3 * white


def test_radial_power_rises_as_the_ramp_and_then_falls(round_phantom):
    _, _, n = round_phantom
    middle = n[:, 40:80, 40:80] * (np.hanning(40)[:, None] * np.hanning(40))
    p, fy, fx = power(middle, 2.0)
    f = np.hypot(fy, fx) / 0.25  # of the Nyquist frequency
    at = {c: p[(f > c - 0.06) & (f < c + 0.06)].mean() for c in (0.15, 0.3, 0.6, 1.0, 1.25)}
    assert at[0.3] / at[0.15] == pytest.approx(2, abs=0.35)
    assert at[0.15] < at[0.3] < at[0.6]
    assert at[0.6] > 1.3 * at[1.0] > 4 * at[1.25]


@pytest.mark.parametrize("dose", [0.25, 4.0])
def test_noise_goes_as_one_over_the_square_root_of_the_dose(dose, round_phantom):
    """The same draw is scaled, exactly."""
    lattice, hu, n = round_phantom
    np.testing.assert_allclose(noise(lattice, hu, dose) * np.sqrt(dose), n, atol=1e-3)


@pytest.mark.parametrize(("step", "thick"), [(4.0, 4.0), (2.0, 5.0), (1.5, 2.0)])
def test_noise_goes_as_one_over_the_square_root_of_the_voxel_volume(step, thick, round_phantom):
    lattice, _, n = round_phantom
    other = grid(step, thick=thick)
    m = noise(other, water(other, REFERENCE_PATH_MM / 2, REFERENCE_PATH_MM / 2))
    expected = np.sqrt(lattice.voxel_ml / other.voxel_ml)
    ratio = m[:, disc(other)].std() / n[:, disc(lattice)].std()
    assert ratio == pytest.approx(expected, rel=0.06)


def test_noise_grows_as_the_photons_of_the_rays_are_lost():
    """Poisson: 60 mm more water on every path raise the variance by exp(60 mu)."""
    lattice = grid()
    sd = [noise(lattice, water(lattice, r, r))[:, disc(lattice)].std() for r in (60, 90)]
    assert sd[1] / sd[0] == pytest.approx(np.exp(60 * 0.0193 / 2), rel=0.06)


def test_noise_is_larger_in_the_middle_and_smallest_in_air(round_phantom):
    lattice, _, n = round_phantom
    middle = n[:, disc(lattice)].std()
    rim = n[:, disc(lattice, y_mm=76, radius_mm=8)].std()
    air = n[:, disc(lattice, y_mm=105, x_mm=105, radius_mm=10)].std()
    assert middle > 1.3 * rim > 1.3 * air > 0


@pytest.mark.parametrize(("y_mm", "x_mm"), [(60, 20), (-60, 20), (20, -60)])
def test_noise_lies_where_the_body_lies(y_mm, x_mm):
    """A rod off the middle is noisier than its mirror images in y, in x and in the diagonal."""
    lattice = grid(slices=40)
    z, y, x = lattice.open_mesh()
    hu = np.where(np.hypot(y - y_mm, x - x_mm) < 45, 0.0, -1000.0) + 0 * z
    n = noise(lattice, hu)
    here = n[:, disc(lattice, y_mm, x_mm, 12)].std()
    for other in ((-y_mm, x_mm), (y_mm, -x_mm), (x_mm, y_mm)):
        assert here > 1.1 * n[:, disc(lattice, *other, 12)].std()


def test_a_thick_slice_is_noisier_than_a_thin_one():
    lattice = grid(slices=8)
    hu = water(lattice, 60, 60)
    hu[4:] = water(lattice, 100, 100)[4:]
    n = noise(lattice, hu)[:, disc(lattice)]
    assert n[4:].std() > 1.5 * n[:4].std()


def crest_ratio(half_u: float, half_v: float, turn_deg: float) -> float:
    """Noise power of waves with crests along u over those along v, the axes of an elliptic body
    turned by `turn_deg` from x towards y."""
    lattice, turn = grid(slices=40), np.deg2rad(turn_deg)
    z, y, x = lattice.open_mesh()
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside = (u / half_u) ** 2 + (v / half_v) ** 2 < 1
    n = noise(lattice, np.where(inside, 0.0, -1000.0) + 0 * z)[:, 40:80, 40:80]
    p, fy, fx = power(n, 2.0)
    fu, fv = fx * np.cos(turn) + fy * np.sin(turn), fy * np.cos(turn) - fx * np.sin(turn)
    ring = np.abs(np.hypot(fy, fx) - 0.14) < 0.05
    along_u, along_v = np.abs(fu) < 0.3 * np.abs(fv), np.abs(fv) < 0.3 * np.abs(fu)
    return float(p[ring & along_u].mean() / p[ring & along_v].mean())


@pytest.mark.parametrize("turn_deg", [0, 30, 45, 90, 120])
def test_noise_is_streaky_along_the_long_axis_of_an_elongated_body(turn_deg):
    """Waves whose crests lie along the long axis come from the long, starved rays."""
    # 200 mm of water against 120 through the centre: exp(0.0193 x 80) = 4.7; less off it
    assert 2.5 < crest_ratio(100, 60, turn_deg) < 4.7


def test_noise_of_a_round_body_has_no_direction():
    for turn_deg in (0, 45):
        assert crest_ratio(80, 80, turn_deg) == pytest.approx(1, abs=0.12)


def test_soft_tissue_of_a_chest_shows_about_18_hu_at_the_usual_dose():
    """Scaled to 8 mm^3; from the abdomen, larger, to the neck, smaller."""
    pig = build_pig(5, 0)
    breath = ventilate(pig, "early", Ventilator(5, 8 * pig.traits.weight_kg), prone=False)
    state = lung_state(breath, "expiration")
    lattice = scan_lattice(
        pig, cavity_bottom_mm(scan_pose(state)), (5.0, 5.0, 5.0), np.random.default_rng(0)
    )
    scan = render(state, lattice)
    soft = (scan.hu > 0) & (scan.hu < 100) & (scan.body_cover > 0.99) & (scan.lung_cover == 0)
    sd = noise(lattice, scan.hu)[soft].std() * np.sqrt(lattice.voxel_ml / 8e-3)
    assert sd == pytest.approx(NOISE_HU_AT_2MM, rel=0.1)


def test_the_same_generator_gives_the_same_noise_and_another_does_not():
    lattice = grid(4.0, slices=9)
    hu = water(lattice, 80, 80)
    first = acquire(hu, lattice, np.random.default_rng(3))
    np.testing.assert_array_equal(first, acquire(hu, lattice, np.random.default_rng(3)))
    assert (first != acquire(hu, lattice, np.random.default_rng(4))).mean() > 0.8


def test_neighbouring_slices_have_noise_of_their_own(round_phantom):
    lattice, _, n = round_phantom
    inner = n[:, disc(lattice)]
    assert abs(np.corrcoef(inner[:-1].ravel(), inner[1:].ravel())[0, 1]) < 0.03


def test_without_noise_water_and_air_read_exactly():
    lattice = grid(4.0, slices=9)
    seen = acquire(water(lattice, 80, 80), lattice, None)
    assert set(np.unique(seen[:, disc(lattice)])) == {0}
    assert set(np.unique(seen[:, :4])) == {-1000}


def test_calibration_moves_water_and_air_as_drawn_and_is_linear_between():
    shift = Calibration(water_hu=3.0, air_hu=-2.0)
    np.testing.assert_allclose(shift.read(np.array([0.0, -1000.0, -500.0])), [3, -1002, -499.5])
    np.testing.assert_array_equal(EXACT.read(np.array([40.0])), [40.0])


def test_calibration_errors_are_small_and_differ_between_scans():
    drawn = [drifted(np.random.default_rng([7, k])) for k in range(300)]
    waters, airs = (np.array([getattr(c, name) for c in drawn]) for name in ("water_hu", "air_hu"))
    assert np.abs(waters).max() <= 4 and np.abs(airs).max() <= 3
    assert 1.2 < waters.std() < 2.2 and 0.9 < airs.std() < 1.7
    assert abs(waters.mean()) < 0.4 and abs(np.corrcoef(waters, airs)[0, 1]) < 0.2


def test_a_calibration_error_reaches_the_image():
    lattice = grid(4.0, slices=9)
    hu = water(lattice, 80, 80)
    seen = acquire(hu, lattice, None, calibration=Calibration(4.0, 3.0))
    assert set(np.unique(seen[:, disc(lattice)])) == {4}
    assert set(np.unique(seen[:, :4])) == {-997}


def test_a_point_is_spread_to_the_width_of_the_point_spread():
    """FWHM 1.65 mm; on 0.5 mm voxels the second moment is sigma^2 (truncation takes 1 %)."""
    lattice = grid(0.5, slices=17, side_mm=10)
    hu = np.zeros(lattice.shape_zyx, np.float32)
    hu[8, 10, 10] = 20000
    seen = acquire(hu, lattice, None).astype(float)
    assert seen.sum() == pytest.approx(20000, rel=0.01)
    z = (np.arange(17) - 8) * 0.5
    assert (seen.sum((1, 2)) * z**2).sum() / seen.sum() == pytest.approx(0.49, rel=0.05)
