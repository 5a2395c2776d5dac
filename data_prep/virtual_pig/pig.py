"""One virtual pig: traits, chest, atlas and injury put together, and its elements for mechanics."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import anatomy
from .anatomy import BodyAtlas, LungAtlas
from .chest import Chest, bend
from .injury import STAGES, InjuryFields, draw_injury
from .lattice import fill_from_nearest
from .mechanics import TISSUE_G_ML, Breath, Elements, Ventilator, solve_breath
from .organs import organ_weight
from .traits import Effusion, Traits, draw_effusion, draw_folds, draw_traits

_LEAST_LUNG = 0.02  # share of lung below which a material voxel is no element


@dataclass(frozen=True)
class Pig:
    """Everything that is fixed about an animal; `material` is its 4 mm atlas."""

    seed: int
    index: int
    traits: Traits
    chest: Chest
    material: LungAtlas
    lung: LungAtlas  # as painted for the scans; the material atlas itself at 4 mm
    body: BodyAtlas
    fields: InjuryFields
    effusion: Effusion

    @cached_property
    def parenchyma(self) -> np.ndarray:
        """Share of each material voxel that is parenchyma `[z, y, x]`."""
        return self.material.lung * (1 - self.material.vessel - self.material.airway)

    @cached_property
    def is_element(self) -> np.ndarray:
        return self.material.lung > _LEAST_LUNG

    @cached_property
    def mediastinum_ml(self) -> float:
        held = self.material.cavity * self.material.mediastinum
        return float(held.sum()) * self.material.lattice.voxel_ml

    @cached_property
    def healthy_density(self) -> np.ndarray:
        """Healthy tissue, g per ml of reference parenchyma `[z, y, x]`."""
        ml = self.material.lattice.voxel_ml
        on = self.is_element
        vessels_g = float((self.material.lung * self.material.vessel)[on].sum()) * ml * TISSUE_G_ML
        tissue = self.fields.tissue
        return tissue * ((self.traits.healthy_lung_g - vessels_g) / _sum(tissue, self, ml))

    def tissue_density(self, stage: str) -> np.ndarray:
        """Tissue with oedema, g per ml of reference parenchyma `[z, y, x]`."""
        swelling = 1 + STAGES[stage].oedema * self.fields.injury[stage]
        return self.healthy_density * swelling


def _sum(tissue: np.ndarray, pig: Pig, ml: float) -> float:
    return float((tissue * pig.parenchyma)[pig.is_element].sum()) * ml


def build_pig(seed: int, index: int, detail_mm: float = anatomy.MATERIAL_MM) -> Pig:
    """Pig `index` of cohort `seed`, painted at `detail_mm` (at most 4 mm)."""
    traits = draw_traits(seed, index)
    chest = anatomy.fit_chest(traits, draw_folds(seed, index))
    lattice = anatomy.cavity_lattice(chest, anatomy.MATERIAL_MM)
    fats = anatomy.fat_fields(lattice, seed, index)
    held = anatomy.rest_lung(chest, traits, lattice) > 0.5
    trees = anatomy.lung_trees(chest, lattice, held, seed=seed, index=index)
    material = anatomy.paint_lungs(chest, traits, lattice, trees, fats)
    return Pig(
        seed=seed,
        index=index,
        traits=traits,
        chest=chest,
        material=material,
        lung=_detailed(chest, traits, material, trees, fats, detail_mm),
        body=_body(chest, traits, detail_mm, seed=seed, index=index),
        fields=draw_injury(chest, traits, lattice, held, seed=seed, index=index),
        effusion=draw_effusion(seed, index),
    )


def _body(chest, traits, detail_mm: float, *, seed: int, index: int) -> BodyAtlas:
    detail_mm = min(detail_mm, anatomy.MATERIAL_MM)
    return anatomy.paint_body(chest, traits, detail_mm, seed=seed, index=index)


def _detailed(chest, traits, material: LungAtlas, trees, fats, detail_mm: float) -> LungAtlas:
    if detail_mm >= anatomy.MATERIAL_MM:
        return material
    fine = anatomy.cavity_lattice(chest, detail_mm)
    fats = tuple(anatomy.refine(f, material.lattice, fine) for f in fats)
    return anatomy.paint_lungs(chest, traits, fine, trees, fats)


def lung_elements(pig: Pig, stage: str, *, prone: bool) -> Elements:
    """The pig's lung at `stage` as the state equations see it."""
    on, atlas = pig.is_element, pig.material
    ml = atlas.lattice.voxel_ml
    at = atlas.lattice.points_at(np.nonzero(on))
    lung, parenchyma = atlas.lung[on] * ml, pig.parenchyma[on] * ml
    return Elements(
        healthy_g=pig.healthy_density[on] * parenchyma,
        tissue_g=pig.tissue_density(stage)[on] * parenchyma,
        vessel_g=atlas.vessel[on] * lung * TISSUE_G_ML,
        solid_ml=(atlas.vessel + atlas.airway)[on] * lung,
        rest_ml=lung,
        airway_ml=float((atlas.airway[on] * lung).sum()),
        height_mm=at[1] + bend(pig.chest, at[0]),
        organs_cmh2o=organ_weight(pig.chest.scale, at, prone),
        injury=pig.fields.injury[stage][on],
        core=pig.fields.core[stage][on],
        opening_noise=pig.fields.opening[on],
        elastic=pig.fields.elastic[on],
    )


@dataclass(frozen=True)
class LungState:
    """The lung of one scan in the material frame; fields `[z, y, x]` reach past its edge."""

    pig: Pig
    prone: bool
    mass_g: float
    gas_ml: float  # with the airways
    tissue_density: np.ndarray  # g per ml of reference parenchyma
    gas_density: np.ndarray  # ml per ml of reference parenchyma
    volume_ratio: np.ndarray  # J*: lung volume per reference lung volume
    effusion_ml: float  # pleural fluid, no part of the lung

    @property
    def lung_ml(self) -> float:
        return self.mass_g / TISSUE_G_ML + self.gas_ml


@dataclass(frozen=True)
class Condition:
    """A pig's lung under the ventilator: both phases share this one mechanics solution."""

    pig: Pig
    stage: str
    prone: bool
    elements: Elements
    breath: Breath


def ventilate(pig: Pig, stage: str, setting: Ventilator, *, prone: bool) -> Condition:
    """Solves the breath of `pig` at `setting`."""
    elements = lung_elements(pig, stage, prone=prone)
    breath = solve_breath(elements, pig.traits, STAGES[stage], setting, prone=prone)
    return Condition(pig, stage, prone, elements, breath)


def lung_state(condition: Condition, phase: str) -> LungState:
    """The lung at the end of `phase` (inspiration or expiration)."""
    pig, breath = condition.pig, condition.breath
    gas = breath.gas_ml(phase)
    ml = pig.material.lattice.voxel_ml
    per_parenchyma = gas / np.maximum(pig.parenchyma[pig.is_element] * ml, 0.05 * ml)
    gas_density = _spread(pig, per_parenchyma)
    tissue_density = pig.tissue_density(condition.stage)
    solid = pig.material.vessel + pig.material.airway
    ratio = solid + (1 - solid) * (tissue_density / TISSUE_G_ML + gas_density)
    return LungState(
        pig=pig,
        prone=condition.prone,
        mass_g=condition.elements.mass_g,
        gas_ml=float(gas.sum(dtype=np.float64)) + breath.airway_ml,
        tissue_density=tissue_density,
        gas_density=gas_density,
        volume_ratio=ratio,
        effusion_ml=pig.effusion.ml[condition.stage],
    )


def _spread(pig: Pig, values: np.ndarray) -> np.ndarray:
    """Element values `[n]` as a field that continues past the lung's edge."""
    field = np.zeros(pig.is_element.shape, np.float32)
    field[pig.is_element] = values
    return fill_from_nearest(field, pig.material.lung > 0.3)
