"""What the network sees beside the noisy residual, built on the device from a batch on the wire.

Shapes: b batch, z y x voxels, c channels. A batch is the dictionary of `edm3d.data.pipeline`: int16
CT patches, 2-D X-ray images in units of a CT (mean attenuation on each ray), a few floats. In
parallel beam the images are crops beside the patch; in cone beam they are whole films, and `beam`
`[b, 4]` comes with them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from edm3d.diffusion.absence import SCALARS, absence_names, hide_absent, null_count
from edm3d.diffusion.beam import VIEWS
from edm3d.diffusion.projection import Patch, mean_back_projection

Array = jax.Array
Batch = dict[str, Array]
UNIT_HU = 1024.0  # Hounsfield units in one unit of CT
VACUUM = -1000.0 / UNIT_HU


@dataclass(frozen=True)
class Conditioning:
    """Which channels the network is given and how HU become numbers of order one.

    Attributes:
        window_hu: HU are clipped to this interval before division by `UNIT_HU`.
        residual_scale: factor that brings the residual's standard deviation to sigma_data.
        prior_ventilation: also give the prior's PEEP, tidal volume and phase.
        xray_difference: also give back-projections of X-ray minus the prior's own projection, in
            units of the scaled residual, whose mean along the ray they are.
        droppable: groups of `edm3d.diffusion.absence` that the network can do without.
        learned_null: a missing channel has a value that is learnt, else 0.
    """

    window_hu: tuple[float, float]
    residual_scale: float
    prior_ventilation: bool = True
    xray_difference: bool = False
    droppable: tuple[str, ...] = ()
    learned_null: bool = False

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels in order, after the noisy residual."""
        return self.measured_names + absence_names(self.droppable)

    @property
    def null_count(self) -> int:
        """How many null values are learnt."""
        return null_count(self.measured_names, self.droppable) if self.learned_null else 0

    @property
    def measured_names(self) -> tuple[str, ...]:
        """The channels without those that tell what is missing."""
        return (
            "prior",
            "xray_pa",
            "xray_lat",
            *(["xray_difference_pa", "xray_difference_lat"] if self.xray_difference else []),
            *SCALARS,
            *([f"prior_{s}" for s in SCALARS] if self.prior_ventilation else []),
            *(f"coordinate_{a}" for a in "zyx"),
        )


def unit_ct(hu: Array, window_hu: tuple[float, float]) -> Array:
    """HU clipped to the window, over 1024: float32 of the same shape."""
    return jnp.clip(hu.astype(jnp.float32), *window_hu) / UNIT_HU


def scaled_residual(batch: Batch, spec: Conditioning) -> Array:
    """`[b, z, y, x, 1]`: what is learnt, target minus prior in unit CT times `residual_scale`."""
    target, prior = (unit_ct(batch[k], spec.window_hu) for k in ("target_hu", "prior_hu"))
    return spec.residual_scale * (target - prior)[..., None]


def add_residual(prior_hu: Array, x: Array, spec: Conditioning) -> Array:
    """`[..., z, y, x]` float32 HU: the prior plus a sampled `x [..., z, y, x, 1]`."""
    unit = unit_ct(prior_hu, spec.window_hu) + x[..., 0] / spec.residual_scale
    return UNIT_HU * jnp.clip(unit, *(w / UNIT_HU for w in spec.window_hu))


def condition_channels(
    batch: Batch, spec: Conditioning, *, given: Array | None = None, null: Array | None = None
) -> Array:
    """`[b, z, y, x, c]` float32, one channel for each of `spec.channel_names`.

    `given [b, g]` tells what is there (all, where None), `null` what stands in a missing channel.

    Raises:
        ValueError: `given` is there for a network that needs everything.
    """
    measured = _measured_channels(batch, spec)
    if not spec.droppable:
        if given is not None:
            raise ValueError("given is there, but nothing of the conditions is droppable")
        return measured
    return hide_absent(measured, spec.measured_names, spec.droppable, given=given, null=null)


def _measured_channels(batch: Batch, spec: Conditioning) -> Array:
    shape = batch["prior_hu"].shape
    channels = [unit_ct(batch["prior_hu"], spec.window_hu)]
    channels += _xray_channels(batch, spec)
    scalars = batch["ventilation"][:, : 6 if spec.prior_ventilation else 3]
    channels += [jnp.broadcast_to(s[:, None, None, None], shape) for s in scalars.T]
    return jnp.stack(channels + _coordinates(batch, shape), axis=-1)


def _xray_channels(batch: Batch, spec: Conditioning) -> list[Array]:
    """The X-rays back-projected, PA and lateral, then if asked for their differences."""
    shape = batch["prior_hu"].shape
    if "beam" not in batch:
        channels = _back_projections(batch["xray_pa"], batch["xray_lat"], shape)
        if spec.xray_difference:
            pa, lat = (
                spec.residual_scale * (batch[f"xray_{v}"] - batch[f"prior_xray_{v}"]) for v in VIEWS
            )
            channels += _back_projections(pa, lat, shape)
        return channels
    # Beyond the detector nothing is known: the image counts as vacuum there, differences as 0.
    channels = [
        VACUUM + _cone_back_projection(batch, v, batch[f"film_{v}"] - VACUUM) for v in VIEWS
    ]
    if spec.xray_difference:
        for v in VIEWS:
            difference = batch[f"film_{v}"] - batch[f"prior_film_{v}"]
            channels.append(spec.residual_scale * _cone_back_projection(batch, v, difference))
    return channels


def _cone_back_projection(batch: Batch, name: str, images: Array) -> Array:
    """Images `[b, u, v]` of the whole volume, back-projected into the patches `[b, z, y, x]`."""
    shape = batch["prior_hu"].shape[1:]

    def one(image: Array, beam: Array, start: Array, volume_shape: Array) -> Array:
        patch = Patch(shape, start, volume_shape)
        return mean_back_projection(image, VIEWS[name], patch, beam=beam)

    return jax.vmap(one)(images, batch["beam"], batch["start"], batch["volume_shape"])


def _back_projections(pa: Array, lat: Array, shape: tuple[int, ...]) -> list[Array]:
    """Images `[b, z, x]` and `[b, z, y]` smeared along their parallel rays, y and x."""
    return [jnp.broadcast_to(pa[:, :, None, :], shape), jnp.broadcast_to(lat[..., None], shape)]


def _coordinates(batch: Batch, shape: tuple[int, ...]) -> list[Array]:
    """Position of each voxel in the whole volume, -1 at its first and 1 at its last voxel."""
    channels = []
    for axis in range(3):
        last = jnp.maximum(batch["volume_shape"][:, axis] - 1, 1)
        index = batch["start"][:, axis][:, None] + jnp.arange(shape[axis + 1])
        position = 2 * index / last[:, None] - 1
        along = [slice(None)] + [slice(None) if a == axis else None for a in range(3)]
        channels.append(jnp.broadcast_to(position[tuple(along)], shape))
    return channels
