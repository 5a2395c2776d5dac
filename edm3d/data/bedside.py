"""The bedside preset: what keeps a film from being the row and column sums of the answer.

Clean, calibrated X-rays computed from the target nearly give its CT away. A bedside film is noisy,
scattered, of unknown exposure and slightly turned. Each image of a case draws these from ranges
(`edm3d.data.xray_geometry.Bedside`) by a seed that is a function of (seed, case, view) alone. The
table stays in the beam, as it lies in the CT. The prior's own projection stays clean.
"""

from dataclasses import dataclass

import numpy as np

from edm3d.data.projection import xray
from edm3d.data.volumes import AIR_HU
from edm3d.data.xray_geometry import Bedside, Geometry

_BIN_MM = 2.0  # the bin that photons are counted in
_VIEWS = {"pa": 0, "lat": 1}


@dataclass(frozen=True)
class Exposure:
    """What one image drew from the preset's ranges."""

    photons: float
    scatter_to_primary: float
    scatter_sigma_mm: float
    gain: float
    offset: float
    pose_degrees: tuple[float, float, float]  # about z, y and x


def generator_of(seed: int, case_id: str, name: str) -> np.random.Generator:
    """The random stream of one image: a function of these three alone."""
    return np.random.default_rng([seed, _VIEWS[name], *case_id.encode()])


def draw_exposure(spec: Bedside, rng: np.random.Generator) -> Exposure:
    """One draw: photons evenly in their logarithm, all else evenly in its range."""
    z, y, x = rng.uniform(-spec.pose_degrees, spec.pose_degrees, 3)
    return Exposure(
        photons=float(np.exp(rng.uniform(*np.log(spec.photons)))),
        scatter_to_primary=float(rng.uniform(*spec.scatter_to_primary)),
        scatter_sigma_mm=float(rng.uniform(*spec.scatter_sigma_mm)),
        gain=float(rng.uniform(*spec.gain)),
        offset=float(rng.uniform(*spec.offset)),
        pose_degrees=(float(z), float(y), float(x)),
    )


def turned(volume_hu: np.ndarray, degrees_zyx: tuple[float, float, float]) -> np.ndarray:
    """The volume turned about its centre, linearly interpolated, float32; air comes in."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    matrix = Rotation.from_euler("xyz", degrees_zyx, degrees=True).as_matrix()  # axes 0, 1, 2
    centre = (np.array(volume_hu.shape) - 1) / 2
    return ndimage.affine_transform(
        volume_hu.astype(np.float32), matrix, centre - matrix @ centre, order=1, cval=AIR_HU
    )


def exposed(
    image: np.ndarray, exposure: Exposure, rng: np.random.Generator, *, pixel_mm: float
) -> np.ndarray:
    """Line integrals as that exposure would measure them, float32.

    primary = I0 exp(-l); scatter = SPR x the blurred primary of the rays that met matter, weighted
    by the share 1 - exp(-l) that interacted; counts ~ Poisson(primary + scatter);
    l' = gain (-log(counts / I0)) + offset. No count is below 1.
    """
    from scipy import ndimage

    photons = exposure.photons * (pixel_mm / _BIN_MM) ** 2
    transmitted = np.exp(-np.asarray(image, np.float64))
    sigma = exposure.scatter_sigma_mm / pixel_mm
    blurred = ndimage.gaussian_filter(transmitted * (1 - transmitted), sigma, mode="nearest")
    expected = photons * (transmitted + exposure.scatter_to_primary * blurred)
    counts = np.maximum(rng.poisson(expected), 1)
    measured = -np.log(counts / photons)
    return (exposure.gain * measured + exposure.offset).astype(np.float32)


def bedside_xray(
    volume_hu: np.ndarray, name: str, geometry: Geometry, *, spacing_mm: float, case_id: str
) -> np.ndarray:
    """The X-ray `name` of a target volume as a bedside film, in the geometry's own image grid."""
    assert geometry.bedside is not None
    rng = generator_of(geometry.bedside.seed, case_id, name)
    exposure = draw_exposure(geometry.bedside, rng)
    posed = turned(volume_hu, exposure.pose_degrees)
    image = xray(posed, name, geometry, spacing_mm=spacing_mm)
    pixel_mm = geometry.cone.detector_pitch_mm if geometry.cone else spacing_mm
    return exposed(image, exposure, rng, pixel_mm=pixel_mm)
