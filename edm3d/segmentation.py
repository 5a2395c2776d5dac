"""Lung masks: which voxels of a CT are lung, by thresholds or by the lungmask network.

Labels are lungmask's: 1 right, 2 left (0 elsewhere). A mask source is an operator: an evaluation
applies the same one to original, prior and generated CT, because its error differs from lung to
lung and only then cancels. The masks stored with the records are the third source (`given`).

Shape key: `volume_hu [z, y, x]` in LPS order (x right to left), `spacing` in mm (z, y, x).
"""

import functools
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy import ndimage

from edm3d.data.volumes import Grid
from edm3d.errors import InputError

RIGHT, LEFT = 1, 2

BODY_HU = -500.0  # half way between air and soft tissue
BODY_STEP_MM = 4.0  # the trunk is found on voxels of about this size: its skin is cut off anyway
COUCH_MM = 9.0  # opening radius: shells of a couch and blankets are thinner, a chest is thicker
SKIN_MM = 12.0  # the skin's mixed voxels and folds lie this near to the outside; no lung does
SMOOTHING_MM = 1.5  # noise of a 2 mm voxel; voxels from 3 mm average enough of it themselves
AERATED_HU = -150.0  # the least gas that counts; fat (-100) and its noise stay out
TISSUE_HU = 40.0  # muscle and blood at the edge of a lung
NEARBY_MM = 8.0  # the lung whose density sets the edge's threshold: thicker than a mixed rim
NEARBY_VOXELS = 2.5  # and on coarse voxels deeper than their mixed rim
AIRWAY_HU = -880.0  # free gas of trachea and bronchi after smoothing; lung holds tissue
AIRWAY_ML = 60.0  # a human trachea and main bronchi; a larger dark region is lung (emphysema)
PURE_GAS_HU = -940.0  # median in a bubble of stomach or bowel; even emphysema keeps more tissue
RIM_MM = 4.0  # depth of a bubble's smoothed, mixed edge
PIECE_ML = 25.0  # smaller separate pieces are oesophageal and bowel gas
CLOSING_MM = 12.0  # closes vessels, bronchi and small consolidations, bridges no mediastinum
NECK_STEP_MM = 2.0  # erosion step in the search for the bridge between two touching lungs
BALANCE = 0.2  # two lungs: the smaller has at least this share of the larger
SIDE_BY_SIDE = 0.3  # two lungs: their centres lie this share of the lungs' width apart in x
BONE_HU = 120.0  # ribs and spine, which a closing would swallow

LUNGMASK_MODELS = {  # and the stem of the file that holds their weights
    "R231": "unet_r231",
    "LTRCLobes": "unet_ltrclobes",
    "R231CovidWeb": "unet_r231covid",
}
LUNGMASK_INSTALL = "pip install 'edm3d[lungmask]'"

Spacing = tuple[float, float, float]


def classical_lungs(volume_hu: np.ndarray, spacing_mm: float | Spacing) -> np.ndarray:
    """Lung labels `[z, y, x]` uint8 by threshold and closing, for voxels of 2 to 10 mm.

    `spacing_mm` is one length or three (z, y, x). A volume without lungs gives an empty mask. The
    whole chest must lie in the field of view: a lung cut by the image's side is not found.

    Consolidated lung has the density of muscle, so most of it is lost where it meets the chest
    wall; the loss changes with aeration and does not cancel between two CTs. On 36 scans of three
    simulated ARDS pigs (`benchmarks/masks.py`; cohort of 3 mm, seed 5, 12 scans a pig) the lung
    volume, about 1200 ml, is off by +10 ± 97 ml at 4 mm and +49 ± 113 ml at 8 mm voxels (mean ±
    SD), from +148 ml in early prone to -113 ml in stabilised supine lungs at 4 mm; Dice is 0.87 and
    0.84.
    Limits of agreement narrower than that say nothing about the truth. Exact (`given`) masks or a
    trained network are better.
    """
    z, y, x = np.broadcast_to(spacing_mm, (3,)).astype(float).tolist()
    spacing = (z, y, x)
    smooth = _smoothed(volume_hu, spacing)
    interior = _interior(smooth, spacing)
    lungs = np.zeros(volume_hu.shape, np.uint8)
    if interior.any():
        trunk = _box(interior, spacing)
        lungs[trunk] = _labelled(smooth[trunk], interior[trunk], spacing)
    return lungs


def _labelled(smooth: np.ndarray, interior: np.ndarray, spacing: Spacing) -> np.ndarray:
    lungs = np.zeros(smooth.shape, np.uint8)
    air = _pieces(smooth, interior, spacing)
    if not air.any():
        return lungs
    box = _box(air, spacing)
    for label, lung in zip((RIGHT, LEFT), _right_and_left(air[box], spacing), strict=True):
        closed = _closed(lung, spacing) & (smooth[box] < BONE_HU)
        filled = ndimage.binary_fill_holes(closed | lung)
        lungs[box][filled & (lungs[box] == 0)] = label
    return lungs


def _smoothed(volume_hu: np.ndarray, spacing: Spacing) -> np.ndarray:
    sigma = [np.sqrt(max(SMOOTHING_MM**2 - (s / 2) ** 2, 0.0)) / s for s in spacing]
    return ndimage.gaussian_filter(volume_hu.astype(np.float32), sigma)


def _interior(smooth: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The trunk without its skin, lungs included; the ends of the scan in z are no skin."""
    step = [max(1, int(BODY_STEP_MM // s)) for s in spacing]
    z, y, x = (s * k for s, k in zip(spacing, step, strict=True))
    coarse = smooth[:: step[0], :: step[1], :: step[2]] > BODY_HU
    filled = np.stack([np.asarray(ndimage.binary_fill_holes(level)) for level in coarse])
    body = _largest(_opened(filled, COUCH_MM, (z, y, x)))
    rims = [_depth(np.pad(level, 1), (y, x))[1:-1, 1:-1] for level in body]
    deep = np.stack(rims) > SKIN_MM
    index = (np.arange(n) // k for n, k in zip(smooth.shape, step, strict=True))
    return deep[np.ix_(*index)]


def _pieces(smooth: np.ndarray, interior: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Aerated lung without airways, stomach bubble and crumbs."""
    air = _half_way(smooth, (smooth < AERATED_HU) & interior, spacing)
    air &= ~_airways(smooth, interior, spacing)
    labels, _ = _components(air)
    sizes_ml = np.bincount(labels.ravel()) * _voxel_ml(spacing)
    large = [n for n in range(1, len(sizes_ml)) if sizes_ml[n] > PIECE_ML]
    lungs = [n for n in large if _core_hu(smooth, labels == n, spacing) > PURE_GAS_HU]
    return np.isin(labels, lungs)


def _core_hu(smooth: np.ndarray, piece: np.ndarray, spacing: Spacing) -> float:
    """Median of a piece away from its edge, whose mixed voxels would hide a bubble's pure gas."""
    box = _box(piece, spacing)
    depth = _depth(np.pad(piece[box], 1), spacing)[1:-1, 1:-1, 1:-1]
    core = depth > min(RIM_MM, depth.max() / 2)
    return float(np.median(smooth[box][core]))


def _half_way(smooth: np.ndarray, air: np.ndarray, spacing: Spacing) -> np.ndarray:
    """`air` cut where it is half way between the lung nearby and soft tissue.

    A voxel at the edge mixes both, so one threshold for all would widen a well aerated lung with
    the voxel's size; half way leaves it, and poorly aerated lung keeps a threshold of its own.
    """
    sigma = [max(NEARBY_MM / s, NEARBY_VOXELS) for s in spacing]
    weight = ndimage.gaussian_filter(air.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(air, smooth, 0).astype(np.float32), sigma)
    nearby = total / np.maximum(weight, 1e-6)
    return air & (smooth < (nearby + TISSUE_HU) / 2)


def _airways(smooth: np.ndarray, interior: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Trachea and main bronchi: the dark tree that enters through the top of the scan."""
    labels, _ = _components((smooth < AIRWAY_HU) & interior)
    sizes_ml = np.bincount(labels.ravel()) * _voxel_ml(spacing)
    entering = [n for n in np.unique(labels[-1]) if n > 0 and sizes_ml[n] < AIRWAY_ML]
    tree = np.isin(labels, entering)
    return ndimage.binary_dilation(tree) if entering else tree


def _right_and_left(air: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """`air` divided between the lungs by the nearer core, or in the middle of its width."""
    cores = _two_cores(air, spacing)
    if cores is None:
        columns = np.nonzero(air.any(axis=(0, 1)))[0]
        right = air & (np.arange(air.shape[2]) <= columns.mean())
    else:
        first, second = sorted(cores, key=_centre_x)
        right = air & (_distance_to(first, spacing) <= _distance_to(second, spacing))
    return right, air & ~right


def _two_cores(air: np.ndarray, spacing: Spacing) -> list[np.ndarray] | None:
    """Two pieces side by side, as soon as growing erosion parts them; None where it never does."""
    depth = _depth(air, spacing)
    width = np.ptp(np.nonzero(air.any(axis=(0, 1)))[0])
    for erosion in np.arange(0.0, depth.max(), NECK_STEP_MM):
        labels, count = _components(depth > erosion)
        if count < 2:
            continue
        sizes = np.bincount(labels.ravel())[1:]
        large, small = (int(n) for n in np.argsort(sizes)[::-1][:2])
        cores = [labels == large + 1, labels == small + 1]
        apart = abs(_centre_x(cores[0]) - _centre_x(cores[1]))
        if sizes[small] > BALANCE * sizes[large] and apart > SIDE_BY_SIDE * width:
            return cores
    return None


def _box(mask: np.ndarray, spacing: Spacing) -> tuple[slice, ...]:
    """The bounding box of `mask` with room for its closing."""
    room = [int(np.ceil(CLOSING_MM / s)) + 1 for s in spacing]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(slice(max(0, b.start - r), b.stop + r) for b, r in zip(box, room, strict=True))


def _closed(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Closing by a ball of CLOSING_MM; the ends of the volume do not erode the result."""
    grown = _distance_to(mask, spacing) <= CLOSING_MM
    return _distance_to(~grown, spacing) > CLOSING_MM


def _opened(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """Opening by a ball; the ends of the volume do not erode a trunk that runs through them."""
    return _distance_to(_depth(mask, spacing) > radius_mm, spacing) <= radius_mm


def _depth(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance in mm from each voxel of `mask` to the nearest one outside it."""
    return _distance_to(~mask, spacing)


def _distance_to(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance in mm to the nearest voxel of `mask`; infinite where it is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing))


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels of the pieces that share faces, and their number."""
    labels = np.zeros(mask.shape, np.int32)
    count = ndimage.label(mask, output=labels)
    return labels, int(count)  # pyright: ignore[reportArgumentType]  (a number with `output`)


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, count = _components(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if count else mask


def _centre_x(mask: np.ndarray) -> float:
    columns = mask.sum(axis=(0, 1))
    return float(columns @ np.arange(mask.shape[2]) / columns.sum())


def _voxel_ml(spacing: Spacing) -> float:
    return float(np.prod(spacing)) / 1000.0


def lungmask_lungs(
    volume_hu: np.ndarray,
    grid: Grid,
    *,
    modelname: str = "R231",
    modelpath: str | None = None,
) -> np.ndarray:
    """Lung labels `[z, y, x]` uint8 by the lungmask network (Hofmanninger et al. 2020).

    The CT is handed over as a SimpleITK image with the grid's own direction cosines, so an oblique
    or prone scan is turned by lungmask itself and its mask turned back. Lobes of LTRCLobes are
    joined to lungs. The networks were trained on humans, mostly supine; on animals and on large
    consolidations they are unvalidated. Weights are never downloaded here.

    Raises:
        InputError: lungmask or torch is not installed, or the weights are not on this machine.
    """
    if modelname not in LUNGMASK_MODELS:
        raise InputError(f"lungmask model is {modelname!r}; use {' or '.join(LUNGMASK_MODELS)}")
    lobes = np.asarray(_inferer(modelname, modelpath).apply(_sitk_image(volume_hu, grid)))
    if modelname != "LTRCLobes":
        return lobes.astype(np.uint8)
    return np.where(lobes > 2, RIGHT, np.where(lobes > 0, LEFT, 0)).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _inferer(modelname: str, modelpath: str | None):
    """The network with its weights, kept between scans."""
    lungmask, torch = _imported("lungmask"), _imported("torch")
    if modelpath is None:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        if not list(cache.glob(f"{LUNGMASK_MODELS[modelname]}-*.pth")):
            raise InputError(
                f"weights of lungmask's {modelname} are not in {cache}; "
                "give the file with --lungmask_weights=PATH"
            )
    elif not Path(modelpath).is_file():
        raise InputError(f"lungmask weights {modelpath} do not exist; correct --lungmask_weights")
    return lungmask.LMInferer(modelname=modelname, modelpath=modelpath, tqdm_disable=True)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"package {name} cannot be imported ({error}); {LUNGMASK_INSTALL}, "
            "or choose --masks=classical"
        ) from error


def _sitk_image(volume_hu: np.ndarray, grid: Grid):
    """The CT as a SimpleITK image in its place in the scanner (SimpleITK is LPS too)."""
    sitk = _imported("SimpleITK")
    image = sitk.GetImageFromArray(np.asarray(volume_hu, np.float32))
    spacing_xyz = np.array(grid.spacing_zyx_mm[::-1])
    image.SetSpacing(spacing_xyz.tolist())
    image.SetOrigin(grid.affine_lps[:3, 3].tolist())
    image.SetDirection((grid.affine_lps[:3, :3] / spacing_xyz).ravel().tolist())
    return image
