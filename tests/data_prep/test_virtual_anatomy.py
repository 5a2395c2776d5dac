"""What a radiologist looks for: spine, lobes, airways and tubes, limbs, heart, pleural fluid."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.virtual_pig import anatomy
from data_prep.virtual_pig.airways import (
    CARINA_Z,
    TRACHEAL_BRONCHUS_Z,
    TUBE_RADIUS_MM,
    TUBE_TIP_Z,
    TUBE_WALL_MM,
    oesophagus_axis,
    trachea_axis,
)
from data_prep.virtual_pig.chest import bend, build_chest, spine_y, straightened, sway
from data_prep.virtual_pig.deformation import material_points, scan_pose
from data_prep.virtual_pig.lattice import Lattice, interpolation, lattice_over, sample
from data_prep.virtual_pig.lobes import FISSURE_MM, fissure_distance, lobe_of, septum_x
from data_prep.virtual_pig.mechanics import Ventilator
from data_prep.virtual_pig.mediastinum import beat_mm, heart_distance, mediastinum_coverage
from data_prep.virtual_pig.pig import LungState, Pig, build_pig, lung_state, ventilate
from data_prep.virtual_pig.render import Scan, render, scan_lattice
from data_prep.virtual_pig.shape import cavity_bottom_mm, fluid_ml, pose_of_volume
from data_prep.virtual_pig.traits import (
    EFFUSION_SHARE,
    Proportions,
    draw_effusion,
    draw_folds,
    draw_traits,
)
from data_prep.virtual_pig.truth import lung_truth

SEED, WET, DRY = 5, 0, 1  # pig 0 of this seed has pleural fluid early and late, pig 1 none


@pytest.fixture(scope="module")
def pig() -> Pig:
    """Painted at 2 mm, as in the paper's cohort."""
    return build_pig(SEED, DRY, detail_mm=2.0)


@pytest.fixture(scope="module")
def scan(pig) -> Scan:
    return scan_of(state_of(pig, "early", prone=False), 2.5)


@pytest.fixture(scope="module")
def wet_states() -> dict[bool, LungState]:
    """The 24 h lung of a pig with pleural fluid, by prone or not."""
    wet = build_pig(SEED, WET)
    return {prone: state_of(wet, "stabilised", prone=prone) for prone in (False, True)}


def state_of(pig: Pig, stage: str, *, prone: bool) -> LungState:
    setting = Ventilator(8, 8 * pig.traits.weight_kg)
    return lung_state(ventilate(pig, stage, setting, prone=prone), "inspiration")


def scan_of(state: LungState, spacing: float) -> Scan:
    bottom = cavity_bottom_mm(scan_pose(state))
    lattice = scan_lattice(state.pig, bottom, (spacing,) * 3, np.random.default_rng(0))
    return render(state, lattice)


def read(field: np.ndarray, lattice: Lattice, z, y, x) -> np.ndarray:
    at = tuple(np.ravel(a).astype(np.float32) for a in np.broadcast_arrays(z, y, x))
    (values,) = sample([field], interpolation(lattice, at))
    return values


def test_the_spine_follows_the_lungs_dorsal_edge(pig, scan):
    """A straight spine stood 35 mm behind the lung at the inlet."""
    z, y, x = scan.lattice.axes()
    s = pig.chest.scale
    beside = np.abs(x) < 26 * s
    gaps = []
    for k in np.nonzero((z > -20 * s) & (z < 105 * s))[0]:
        rows = np.nonzero((scan.labels[k][:, beside] > 0).any(1))[0]
        front = float(spine_y(pig.chest, z[k]) + bend(pig.chest, z[k]))
        gaps.append(front - y[rows.max()])
    assert len(gaps) > 30
    assert np.ptp(gaps) < 9


def test_the_spine_is_a_gentle_curve(pig):
    s = pig.chest.scale
    z = np.arange(-100.0, pig.chest.top, 2.0)
    line = spine_y(pig.chest, z) + bend(pig.chest, z)
    assert 8 < line[0] - line[-1] < 25
    assert np.abs(np.gradient(line, z)).max() < 0.3
    bone = read(pig.body.wall_hu, pig.body.lattice, z, spine_y(pig.chest, z) - s, 0.0)
    assert np.mean(bone > 150) > 0.6 and bone.min() > 60  # bodies and discs all along


def ring(pig: Pig, z: float, radius: float) -> tuple[np.ndarray, ...]:
    """Points around the endotracheal tube's middle."""
    y0, x0 = trachea_axis(pig.chest, np.array(z))
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    middle = y0 + 0.8 * pig.chest.scale
    return np.full(24, z), middle + radius * np.sin(turn), x0 + radius * np.cos(turn)


def test_the_trachea_holds_a_tube_down_to_its_tip(pig):
    s = pig.chest.scale
    wall = TUBE_RADIUS_MM - TUBE_WALL_MM / 2
    body, lung = (pig.body.wall_hu, pig.body.lattice), (pig.lung.inner_hu, pig.lung.lattice)
    for z, atlas, there in ((150, body, True), (135, lung, True), (108, lung, False)):
        assert z > TUBE_TIP_Z or not there
        middle, around = (read(*atlas, *ring(pig, z * s, r)) for r in (0.0, wall))
        assert middle.max() < -800
        assert (around.mean() > middle.mean() + 250) == there
        assert (around.max() > 0) == there  # the barium line


def test_a_gastric_tube_runs_in_the_oesophagus(pig):
    s = pig.chest.scale
    for z in (20, 60, 100):
        y0, x0 = oesophagus_axis(pig.chest, np.array(z * s))
        around = y0 + np.linspace(-3, 3, 13)
        assert read(pig.lung.inner_hu, pig.lung.lattice, z * s, around, x0).max() > 120


def test_the_right_cranial_lobe_has_a_bronchus_from_the_trachea(pig):
    """In swine it leaves above the carina, on the right only."""
    s = pig.chest.scale
    assert CARINA_Z < TRACHEAL_BRONCHUS_Z < TUBE_TIP_Z
    y0, _ = trachea_axis(pig.chest, np.array(TRACHEAL_BRONCHUS_Z * s))
    x = np.array([16.0, -19.0]) * s
    left, right = read(pig.lung.inner_hu, pig.lung.lattice, 95.5 * s, y0, x)
    assert right < -450 and left > -150


def test_five_lobes_have_airways_of_three_generations_and_the_accessory_lobe_one(pig, monkeypatch):
    """A lobar bronchus, two segmental ones, four below them: leaves halve at each fork."""
    trees, grow = [], anatomy._lobe_trees
    monkeypatch.setattr(anatomy, "_lobe_trees", lambda *a: trees.append(grow(*a)) or trees[-1])
    material = pig.material
    anatomy.lung_trees(pig.chest, material.lattice, material.lung > 0.5, seed=SEED, index=DRY)
    assert len(trees) == 6
    leaves = [airways[-1].leaves for _, airways in trees]
    generations = [np.rint(np.log2(own.max() / own)).astype(int) for own in leaves]
    counts = [np.bincount(own)[:3].tolist() for own in generations]
    assert counts == 5 * [[1, 2, 4]] + [[1]]


def test_airway_gas_is_seen_in_the_lobes(pig, scan):
    """As much as a lobar bronchus of about 5 mm holds; the accessory lobe's is thinner."""
    s = pig.chest.scale
    at = pig.lung.lattice.open_mesh()
    lobe = lobe_of(pig.chest, tuple(np.broadcast_to(a, pig.lung.airway.shape) for a in at))
    for which in range(5):
        gas = pig.lung.airway * pig.lung.lung * (lobe == which)
        assert gas.max() > 0.7
        assert gas.sum() * pig.lung.lattice.voxel_ml > 0.3 * s**3


def test_the_lungs_have_six_lobes_and_the_caudal_ones_are_large(pig):
    lung = pig.material.lung
    at = tuple(np.broadcast_to(a, lung.shape) for a in pig.material.lattice.open_mesh())
    share = np.bincount(lobe_of(pig.chest, at).ravel(), lung.ravel(), minlength=6) / lung.sum()
    assert share.min() > 0.01
    assert share[1] > 0.15 and share[4] > 0.15
    assert share[5] < 0.12  # accessory


def test_a_fissure_is_a_faint_dense_line(pig, scan):
    """At 2.5 mm half a millimetre of pleura stands out by tens of HU, far less than a vessel."""
    voxels = np.nonzero(scan.lung_cover > 0.99)
    z, y, x = (np.broadcast_to(a, scan.hu.shape) for a in straightened_mesh(pig, scan))
    reference = material_points(scan.inflation, (z[voxels], y[voxels], x[voxels]))
    distance = fissure_distance(pig.chest, reference)
    hu = scan.lung_hu[voxels]
    on, off = hu[distance < 0.8], hu[(distance > 3) & (distance < 7)]
    assert 40 < np.median(on) - np.median(off) < 250


def straightened_mesh(pig: Pig, scan: Scan):
    return straightened(pig.chest, scan.lattice.open_mesh())


def test_fissures_hold_the_same_pleura_at_every_resolution(pig):
    area = []
    for atlas in (pig.lung, pig.material):
        h, at = atlas.lattice.size_mm, atlas.lattice.open_mesh()
        overlap = np.clip((FISSURE_MM + h) / 2 - fissure_distance(pig.chest, at), 0, FISSURE_MM)
        area.append(float((overlap * atlas.lung).sum()) * h * h)
    assert area[0] == pytest.approx(area[1], rel=0.05)


def test_vessels_thin_out_towards_fissures(pig):
    """Away from the hilum; without a bare zone an eighth of the vessels stays close to fissures."""
    atlas = pig.lung
    at = atlas.lattice.open_mesh()
    distance = fissure_distance(pig.chest, at)
    inside = (atlas.lung > 0.99) & (np.abs(at[2]) > 32 * pig.chest.scale)
    near = atlas.vessel[inside & (distance > 1.8) & (distance < 4)]
    far = atlas.vessel[inside & (distance > 8) & (distance < 14)]
    assert near.mean() < 0.04 * far.mean()


def test_the_septum_is_not_a_plane_and_differs_between_pigs(pig):
    z, y = np.meshgrid(np.arange(-20.0, 120, 5), np.arange(-70.0, 50, 5), indexing="ij")
    other = build_pig(SEED, WET)
    own = septum_x(pig.chest, z, y)
    assert 6 < np.ptp(own) < 30
    assert np.abs(own - septum_x(other.chest, z, y)).max() > 1


def test_the_beating_heart_keeps_its_volume_and_is_softest_at_the_left_ventricle(pig):
    chest, traits = pig.chest, pig.traits
    s = chest.scale
    apex, base = (np.array([[0.0], [-38.0], [31.0]]) * s, np.array([[80.0], [-38.0], [-8.0]]) * s)
    assert beat_mm(chest, traits, tuple(apex)) > 5.5
    assert beat_mm(chest, traits, tuple(base)) < 3.5
    grid = lattice_over((-40, -100, -60), (100, 20, 70), 2.0)
    at = grid.open_mesh()
    distance = heart_distance(chest, traits, at)
    held = mediastinum_coverage(chest, traits, at, grid.size_mm)
    left = np.broadcast_to(at[2] > 25 * s, held.shape) & (np.abs(distance) < 15)
    border = held[left & (np.abs(distance) < 1)]
    assert 0.35 < border.mean() < 0.65
    assert 0.02 < held[left & (distance > 2.5) & (distance < 3.5)].mean() < 0.3
    hard = float((distance < 0).sum()) * grid.voxel_ml
    assert hard == pytest.approx(traits.heart_ml, rel=0.02)


def test_forelimbs_lie_beside_the_inlet_and_the_neck_is_narrower_than_the_shoulders(pig, scan):
    z, y, x = scan.lattice.axes()
    s = pig.chest.scale
    top = (z > 120 * s) & (z < 150 * s)
    bone = scan.hu > 350
    for side in (x > 40 * s, x < -40 * s):
        assert bone[top][:, :, side].any(axis=(1, 2)).all()
    at_spine = np.argmin(np.abs(y - 50 * s))
    width = (scan.body_cover[:, at_spine] > 0.5).sum(-1) * 2.5
    shoulder = width[(z > 70 * s) & (z < 110 * s)].max()
    assert width[z > 155 * s].max() < 0.85 * shoulder


@pytest.mark.parametrize("prone", [False, True])
def test_effusion_has_the_drawn_volume_on_the_dependent_side(wet_states, prone):
    state = wet_states[prone]
    wet = scan_of(state, 4.0)
    assert state.effusion_ml == state.pig.effusion.ml["stabilised"] > 20
    assert fluid_ml(wet.inflation.pose) == pytest.approx(state.effusion_ml, abs=0.5)
    assert wet.effusion_ml == pytest.approx(state.effusion_ml, rel=0.04)
    _, y, _ = wet.lattice.open_mesh()
    fluid_y, lung_y = (float((c * y).sum() / c.sum()) for c in (wet.fluid_cover, wet.lung_cover))
    assert (-1 if prone else 1) * (fluid_y - lung_y) > 25


def test_effusion_looks_like_fluid_and_is_no_lung(wet_states):
    wet = scan_of(wet_states[False], 3.0)
    full = wet.fluid_cover > 0.999
    assert full.sum() > 100
    assert 5 <= wet.hu[full].min() <= wet.hu[full].max() <= 15
    assert not wet.labels[wet.fluid_cover > 0.5].any()


def test_effusion_changes_neither_gas_nor_tissue_of_the_lung(wet_states):
    state = wet_states[False]
    wet, dry = (lung_truth(scan_of(s, 4.0)) for s in (state, replace(state, effusion_ml=0.0)))
    assert wet["tissue_g"] == pytest.approx(dry["tissue_g"], rel=1e-3)
    assert wet["gas_ml"] == pytest.approx(dry["gas_ml"], abs=8)


def test_effusion_widens_the_chest(wet_states):
    state = wet_states[False]
    assert scan_pose(state).q > scan_pose(replace(state, effusion_ml=0.0)).q + 0.05


def test_a_quarter_of_the_pigs_has_fluid_and_more_at_24_hours():
    drawn = [draw_effusion(SEED, index) for index in range(600)]
    for stage, share in EFFUSION_SHARE.items():
        ml = np.array([e.ml[stage] for e in drawn])
        assert np.mean(ml > 0) == pytest.approx(share, abs=0.05)  # 2.5 standard errors
        assert 20 <= ml[ml > 0].min() and ml.max() <= 150
    assert all(e.ml["healthy"] == 0 and e.ml["early"] <= e.ml["stabilised"] for e in drawn)
    assert 0.2 < np.mean(list(EFFUSION_SHARE.values())) < 0.3


def test_the_deepest_effusion_fits_the_smallest_chest_in_both_positions():
    small = build_chest(all_small(draw_traits(SEED, 0).proportions), 0.76, draw_folds(SEED, 0))
    for prone in (False, True):
        pose = pose_of_volume(small, 1000.0, prone, effusion_ml=150.0)
        assert fluid_ml(pose) == pytest.approx(150, abs=0.5)
        assert pose.radius_table.min() > 25


def all_small(proportions: Proportions) -> Proportions:
    """Every size at the small end of what is drawn."""
    return replace(proportions, half_width=0.93, depth_ventral=0.93, depth_dorsal=0.93, height=0.93)


def test_the_abdomen_holds_liver_bowel_fat_and_an_intact_spine(pig, scan):
    z, y, _ = (np.broadcast_to(a, scan.hu.shape) for a in scan.lattice.open_mesh())
    s = pig.chest.scale
    low = (z < -95 * s) & (scan.body_cover > 0.99) & (y < 60 * s) & (y > -60 * s)
    assert 0.02 < np.mean((scan.hu[low] > -110) & (scan.hu[low] < -60)) < 0.5
    bottom = np.arange(-100.0, -20.0, 2.0)
    line = spine_y(pig.chest, bottom) - s
    middle = [np.ravel(a) for a in np.broadcast_arrays(bottom, line)]
    at = (middle[0], middle[1] + bend(pig.chest, bottom), sway(pig.chest, bottom))
    inside = interpolation(scan.lattice, tuple(a.astype(np.float32) for a in at))
    (bone,) = sample([scan.hu], inside)
    assert np.mean(bone > 150) > 0.6
