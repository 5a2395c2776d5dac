"""Lung masks on chests whose lungs are known, and on real CT where it is at hand."""

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from edm3d import segmentation
from edm3d.data.volumes import Grid, read_ct
from edm3d.errors import InputError


def ellipsoid(axes_mm: list[np.ndarray], centre: tuple, radii: tuple) -> np.ndarray:
    terms = zip(axes_mm, centre, radii, strict=True)
    return sum(((a - c) / r) ** 2 for a, c, r in terms) < 1  # type: ignore[return-value]


def chest(spacing: float, lung_hu: float = -700.0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy trunk `[z, y, x]` on a couch with trachea, stomach bubble, two lungs; their mask."""
    lengths = (240.0, 240.0, 320.0)
    axes = [np.arange(spacing / 2, n, spacing) - n / 2 for n in lengths]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    volume = np.full(z.shape, -1000.0)
    volume[(np.abs(y - 112) < 4) & (np.abs(x) < 140)] = -150  # couch
    volume[(y / 100) ** 2 + (x / 145) ** 2 < 1] = 50
    mask = np.zeros(z.shape, np.uint8)
    mask[ellipsoid([z, y, x], (0, -5, -62), (95, 70, 48))] = segmentation.RIGHT
    mask[ellipsoid([z, y, x], (0, -5, 66), (90, 68, 42))] = segmentation.LEFT
    volume[mask > 0] = lung_hu
    volume[(z > 20) & (y**2 + x**2 < 8**2)] = -1000  # trachea, up to the scan's end
    volume[ellipsoid([z, y, x], (-105, 30, 0), (14, 25, 25))] = -1000  # stomach bubble
    noise = np.random.default_rng(0).normal(0, 20, z.shape)
    return (volume + noise).astype(np.int16), mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero((a > 0) & (b > 0)) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("spacing", [3.0, 5.0, 8.0, 10.0])
@pytest.mark.parametrize("lung_hu", [-850.0, -450.0])
def test_classical_finds_both_lungs_at_any_voxel_size(spacing: float, lung_hu: float) -> None:
    volume, mask = chest(spacing, lung_hu)
    found = segmentation.classical_lungs(volume, spacing)
    # A mixed voxel at the edge counts as lung from about half: 5 % of a lung at 10 mm.
    assert np.count_nonzero(found) == pytest.approx(np.count_nonzero(mask), rel=0.06)
    for label in (segmentation.RIGHT, segmentation.LEFT):
        assert dice(found == label, mask == label) > 0.95


def test_mixed_voxels_at_the_edge_do_not_widen_a_coarse_lung() -> None:
    volume, mask = chest(2.5, -800.0)
    z, y, x = (n // 4 for n in volume.shape)
    coarse = volume.reshape(z, 4, y, 4, x, 4).mean(axis=(1, 3, 5))
    found_ml = np.count_nonzero(segmentation.classical_lungs(coarse, 10.0)) * 1.0
    true_ml = np.count_nonzero(mask) * 2.5**3 / 1000
    # The rest is closing; one threshold at AERATED_HU would add a sixth.
    assert found_ml == pytest.approx(true_ml, rel=0.08)


def test_classical_takes_unequal_spacing_and_turned_pigs() -> None:
    volume, mask = chest(3.0)
    thin, thin_mask = volume[:, ::2], mask[:, ::2]
    assert dice(segmentation.classical_lungs(thin, (3.0, 6.0, 3.0)), thin_mask) > 0.95
    assert dice(segmentation.classical_lungs(volume[:, ::-1], 3.0), mask[:, ::-1]) > 0.95


def test_trachea_and_stomach_bubble_are_no_lung() -> None:
    volume, mask = chest(3.0)
    found = segmentation.classical_lungs(volume, 3.0)
    assert not found[(volume < -900) & (mask == 0)].any()


def test_a_loop_of_bowel_with_gas_and_a_wide_soft_edge_is_no_lung() -> None:
    volume, mask = chest(2.0)
    z, y, x = (np.arange(1.0, n, 2) - n / 2 for n in (240, 240, 320))
    radius = np.hypot(y[:, None] - 50, x[None])
    loop = np.clip((18 - radius) / 16, 0, 1) * (z < -60)[:, None, None]  # 20 to 60 ml, mostly edge
    gassy = (volume * (1 - loop) - 995 * loop).astype(np.int16)
    found = segmentation.classical_lungs(gassy, 2.0)
    assert np.median(gassy[(loop > 0.2)]) > segmentation.PURE_GAS_HU  # by that alone it would be
    assert not found[(loop > 0) & (mask == 0)].any()
    assert dice(found, mask) > 0.95


def test_consolidation_inside_a_lung_is_closed_but_at_the_wall_it_is_lost() -> None:
    volume, mask = chest(3.0)
    z, y, x = np.indices(volume.shape)
    inner = (z - 40) ** 2 + (y - 38) ** 2 + (x - 32) ** 2 < 3**2
    volume[inner] = 30
    volume[(mask > 0) & (y > 52)] = 30
    found = segmentation.classical_lungs(volume, 3.0)
    assert found[inner].all()
    assert not found[(mask > 0) & (y > 56)].any()


@pytest.mark.parametrize("value", [-1000, 40])
def test_a_volume_without_lungs_gives_an_empty_mask(value: int) -> None:
    assert not segmentation.classical_lungs(np.full((9, 10, 11), value, np.int16), 8.0).any()


@pytest.mark.parametrize(
    ("name", "litres"),
    # Volumes of the aerated lung by its README, which leaves vessels and mixed voxels out.
    [("popi_4dct_5mm/phase10", 5.0), ("popi_4dct_5mm/phase60", 4.5)],
)
def test_classical_on_real_ct(name: str, litres: float) -> None:
    root = os.environ.get("EDM3D_REAL_DATA")
    if not root:
        pytest.skip("EDM3D_REAL_DATA is not set: no real CT at hand")
    volume = read_ct(Path(root) / "real" / f"{name}.nii.gz")
    found = segmentation.classical_lungs(volume.values, volume.grid.spacing_zyx_mm)
    ml = np.array([np.count_nonzero(found == k) for k in (1, 2)])
    ml = ml * np.prod(volume.grid.spacing_zyx_mm) / 1e3
    assert litres < ml.sum() / 1000 < 1.16 * litres
    assert 0.45 < ml[0] / ml.sum() < 0.62


class FakeInferer:
    """Stands in for the network: keeps the image it is given and answers the lobes 0 to 5."""

    def __init__(self, **options: object):
        self.options = options
        FakeInferer.last = self

    def apply(self, image: object) -> np.ndarray:
        self.image = image
        return np.arange(6, dtype=np.uint8).reshape(1, 2, 3)


@pytest.fixture
def fake_lungmask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    torch = types.ModuleType("torch")
    torch.hub = types.SimpleNamespace(get_dir=lambda: str(tmp_path))  # type: ignore[attr-defined]
    package = types.ModuleType("lungmask")
    package.LMInferer = FakeInferer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "lungmask", package)
    segmentation._inferer.cache_clear()
    return tmp_path


def oblique_grid() -> Grid:
    turn = np.deg2rad(30)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, :3] *= [2.0, 3.0, 4.0]
    affine[:3, 3] = 10, 20, 30
    return Grid((1, 2, 3), affine)


def test_lungmask_gets_the_true_place_of_an_oblique_scan(fake_lungmask: Path) -> None:
    weights = fake_lungmask / "weights.pth"
    weights.touch()
    grid = oblique_grid()
    lobes = segmentation.lungmask_lungs(
        np.zeros((1, 2, 3)), grid, modelname="LTRCLobes", modelpath=str(weights)
    )
    assert lobes.ravel().tolist() == [0, 2, 2, 1, 1, 1]
    assert FakeInferer.last.options["modelpath"] == str(weights)
    placed = FakeInferer.last.image.TransformIndexToPhysicalPoint((2, 1, 0))
    assert placed == pytest.approx((grid.affine_lps @ [2, 1, 0, 1])[:3])


def test_missing_lungmask_or_weights_is_one_clear_line(
    fake_lungmask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct, grid = np.zeros((1, 2, 3)), oblique_grid()
    with pytest.raises(InputError, match="weights of lungmask's R231 are not in"):
        segmentation.lungmask_lungs(ct, grid)
    with pytest.raises(InputError, match=r"nowhere\.pth do not exist"):
        segmentation.lungmask_lungs(ct, grid, modelpath="nowhere.pth")
    with pytest.raises(InputError, match="lungmask model is 'R999'"):
        segmentation.lungmask_lungs(ct, grid, modelname="R999")
    monkeypatch.setitem(sys.modules, "lungmask", None)
    with pytest.raises(InputError, match=r"pip install 'edm3d\[lungmask\]'"):
        segmentation.lungmask_lungs(ct, grid)
