"""The material atlas of one pig: what each point of the reference chest consists of.

Mechanics and injury always live on a 4 mm grid; `detail_mm` only sets how finely organs, vessels
and bones are painted. So the animal is the same at every resolution.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .abdomen import paint_abdomen
from .airways import GAS_HU
from .chest import Chest, build_chest
from .lattice import Lattice, coverage, lattice_over, paint, random_field
from .lobes import LEFT_LOBES, RIGHT_CRANIAL, fissure_distance, fissure_share, lobe_of
from .mediastinum import hilum_distance, mediastinum_coverage, paint_mediastinum
from .shape import Pose, cavity_coverage
from .traits import Folds, Traits, field_generator, generator
from .trees import Branches, grow_tree, murray_radius, select, shifted, trunk, tube_fraction
from .wall import paint_wall, wall_thickness

MATERIAL_MM = 4.0
_TREES, _HEART_FAT, _BELLY_FAT, _MARBLING = 3, 30, 31, 32
_ARTERY_LEAVES, _VEIN_LEAVES, _AIRWAY_MIN_LEAVES = 840, 520, 6
_VESSEL_LEAF_MM, _AIRWAY_LEAF_MM = 0.80, 0.62
_WALL_SHARE, _LEAST_WALL_MM = 0.22, 0.3  # of an airway's radius
_BARE_MM, _NO_LOBE = 5.0, -1  # no vessel ends this near a fissure
# Where each lobe's bronchus and artery enter it: z, y, x, times scale.
_LOBE_ROOTS = (
    (68.0, 10.0, 24.0),
    (46.0, 20.0, 22.0),
    (95.0, 16.0, -25.0),
    (56.0, 6.0, -24.0),
    (46.0, 20.0, -22.0),
    (42.0, 6.0, -12.0),
)


@dataclass(frozen=True)
class LungAtlas:
    """Shares 0..1 `[z, y, x]` in the reference frame on `lattice`."""

    lattice: Lattice
    cavity: np.ndarray
    mediastinum: np.ndarray
    vessel: np.ndarray  # of lung volume; with airway walls and the pleura of fissures
    airway: np.ndarray  # of lung volume; gas
    inner_hu: np.ndarray  # what fills the cavity but lung, and the abdomen

    @property
    def lung(self) -> np.ndarray:
        return self.cavity * (1 - self.mediastinum)


@dataclass(frozen=True)
class BodyAtlas:
    """HU `[z, y, x]` of the body wall on `lattice`."""

    lattice: Lattice
    wall_hu: np.ndarray


def fit_chest(traits: Traits, folds: Folds) -> Chest:
    """The chest whose cavity at rest holds the pig's lungs and mediastinum."""
    scale = float(np.cbrt(traits.weight_kg / 33.0)) * 0.85
    for _ in range(3):
        chest = build_chest(traits.proportions, scale, folds)
        lung_ml, mediastinum_ml = _rest_volumes(chest, traits)
        scale *= float(np.cbrt((traits.rest_lung_ml + mediastinum_ml) / (lung_ml + mediastinum_ml)))
    return build_chest(traits.proportions, scale, folds)


def _rest_volumes(chest: Chest, traits: Traits, spacing: float = 6.0) -> tuple[float, float]:
    lattice = cavity_lattice(chest, spacing)
    cavity = cavity_coverage(Pose(chest, 0.0, False), lattice)
    held = mediastinum_coverage(chest, traits, lattice.open_mesh(), spacing)
    lung, other = cavity * (1 - held), cavity * held
    return float(lung.sum()) * lattice.voxel_ml, float(other.sum()) * lattice.voxel_ml


def rest_lung(chest: Chest, traits: Traits, lattice: Lattice) -> np.ndarray:
    """Share of each voxel that is lung in the reference frame `[z, y, x]`."""
    held = mediastinum_coverage(chest, traits, lattice.open_mesh(), lattice.size_mm)
    return cavity_coverage(Pose(chest, 0.0, False), lattice) * (1 - held)


def cavity_lattice(chest: Chest, spacing: float) -> Lattice:
    """A box around the reference cavity and the abdomen below it."""
    s, around = chest.scale, 8.0
    low = (-160 * s, -chest.depth_ventral - around, -chest.half_width - around)
    high = (chest.top + around, chest.depth_dorsal + around, chest.half_width + around)
    return lattice_over(low, high, spacing)


def paint_body(
    chest: Chest, traits: Traits, detail_mm: float, *, seed: int, index: int
) -> BodyAtlas:
    """The body wall at `detail_mm`."""
    fat = traits.proportions.fat
    back, front = (float(wall_thickness(chest, fat, np.array(a), 0.0)) for a in (1.0, -1.0))
    side = chest.half_width + 36 * chest.scale
    low = (-160 * chest.scale, -chest.depth_ventral - front - 6, -side)
    high = (chest.top + 24, chest.depth_dorsal + back + 6, side)
    coarse, lattice = (lattice_over(low, high, h) for h in (MATERIAL_MM, detail_mm))
    marbling = random_field(coarse, 4.5, field_generator(seed, index, _MARBLING))
    return BodyAtlas(lattice, paint_wall(chest, fat, lattice, refine(marbling, coarse, lattice)))


def lung_trees(
    chest: Chest, lattice: Lattice, lung: np.ndarray, *, seed: int, index: int
) -> tuple[Branches, Branches]:
    """Blood vessels and airways of every lobe (reference frame); `lung` bool `[z, y, x]`.

    No tree crosses a fissure, and none ends close to one.
    """
    rng = generator(seed, index, _TREES)
    at = lattice.points_at(np.nonzero(lung))
    lobe = lobe_of(chest, at)
    lobe[fissure_distance(chest, at) < _BARE_MM] = _NO_LOBE
    cloud = np.stack([p.astype(float) for p in at], -1)
    vessels, airways = [], []
    for which, root in enumerate(_LOBE_ROOTS):
        share = (lobe == which).sum() / (lobe >= 0).sum()
        own = cloud[lobe == which]
        blood, air = _lobe_trees(chest, which, np.array(root), own, share, rng)
        vessels += blood
        airways += air
    return _joined(vessels), _joined(airways)


def _lobe_trees(chest: Chest, lobe: int, root, cloud, share: float, rng):
    """Arteries, veins and airways of one lobe with root `root` (times scale), as lists."""
    side, s = (1 if lobe in LEFT_LOBES else -1), chest.scale
    trunk_from = np.array([64, 16, side * 20.0])
    vein_root = root + np.array([-6, -10, 0])
    artery_leaves = _leaves(cloud, round(_ARTERY_LEAVES * share), rng)
    vein_leaves = _leaves(cloud, round(_VEIN_LEAVES * share), rng)
    arteries = grow_tree(root * s, artery_leaves, 0.42, rng)
    veins = grow_tree(vein_root * s, vein_leaves, 0.45, rng)
    bronchi = _beside(select(arteries, arteries.leaves >= _AIRWAY_MIN_LEAVES), side)
    artery = trunk(trunk_from * s, root * s, len(artery_leaves))
    # The right cranial lobe's bronchus comes from the trachea, not with its artery.
    stem = [] if lobe == RIGHT_CRANIAL else [_beside(artery, side)]
    return [artery, arteries, veins], [*stem, bronchi]


def _leaves(cloud: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    chosen = cloud[rng.choice(len(cloud), max(count, 2), replace=False)]
    return chosen + rng.uniform(-MATERIAL_MM / 2, MATERIAL_MM / 2, chosen.shape)


def _beside(arteries: Branches, side: int) -> Branches:
    """Airways run beside their arteries, 1.6 radii off."""
    radius = murray_radius(arteries, _VESSEL_LEAF_MM)
    return shifted(arteries, 1.6 * radius[:, None] * np.array([0.3, 1.0, 0.3 * side]))


def _joined(parts: list[Branches]) -> Branches:
    return Branches(*(np.concatenate([getattr(p, k) for p in parts]) for k in vars(parts[0])))


def paint_lungs(
    chest: Chest, traits: Traits, lattice: Lattice, trees: tuple[Branches, Branches], fats
) -> LungAtlas:
    """The cavity's content on `lattice`; `fats` are the two fat fields on the same lattice."""
    at, h = lattice.open_mesh(), lattice.size_mm
    vessel, airway = _tubes(chest, lattice, *trees)
    inner = paint_mediastinum(chest, traits, at, h, fats[0])
    # Bronchi go on inside the hilum, but a tree's path through the heart is not one.
    inner = paint(inner, airway * coverage(hilum_distance(chest, at) - 8, h), GAS_HU)
    return LungAtlas(
        lattice=lattice,
        cavity=cavity_coverage(Pose(chest, 0.0, False), lattice),
        mediastinum=mediastinum_coverage(chest, traits, at, h),
        vessel=vessel,
        airway=airway,
        inner_hu=paint_abdomen(chest, at, h, fats[1], inner),
    )


def _tubes(
    chest: Chest, lattice: Lattice, vessels: Branches, airways: Branches
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of vessel (with airway walls) and airway lumen `[z, y, x]`, together at most 1."""
    s = chest.scale
    lumen = murray_radius(airways, _AIRWAY_LEAF_MM * s)
    airway = tube_fraction(lattice, airways, lumen)
    outer = lumen * (1 + _WALL_SHARE) + _LEAST_WALL_MM
    walls = tube_fraction(lattice, airways, outer, lumen)
    blood = tube_fraction(lattice, vessels, murray_radius(vessels, _VESSEL_LEAF_MM * s))
    pleura = fissure_share(chest, lattice.open_mesh(), lattice.size_mm)
    return np.minimum(blood + walls + pleura, 1 - airway), airway


def fat_fields(lattice: Lattice, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit fields of epicardial and abdominal fat on the material lattice."""
    heart = random_field(lattice, 12, field_generator(seed, index, _HEART_FAT))
    return heart, random_field(lattice, 14, field_generator(seed, index, _BELLY_FAT))


def refine(field: np.ndarray, coarse: Lattice, fine: Lattice) -> np.ndarray:
    """`field` read on another lattice, trilinear."""
    if coarse == fine:
        return field
    at = [i.ravel() for i in coarse.index(fine.open_mesh())]
    return ndimage.map_coordinates(
        field, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest", output=np.float32
    )
