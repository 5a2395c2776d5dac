"""X-rays of a volume and their back-projection on the device, inside jit, with gradients.

Shapes: z y x voxels (all of a volume, or a patch of it), u v image rows and columns, d planes along
the beam, c the volume's axis along image columns. In parallel beam the image is the volume's own
grid; in cone beam, rays diverge from a source: `edm3d.diffusion.beam`. Both are linear maps, so
JAX's transpose of `project` is `back_project` (a test says so).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from edm3d.diffusion.beam import Beam, View, cell_shares, cell_width_mm, places_mm, secants

Array = jax.Array


def project_parallel(density: Array, view: View, spacing_mm: float) -> Array:
    """Line integrals `[u, v]` of `density [z, y, x]` along the view's axis."""
    return density.sum(view.ray_axis) * spacing_mm


def back_project_parallel(
    image: Array, view: View, shape: tuple[int, ...], spacing_mm: float
) -> Array:
    """`[z, y, x]`: the adjoint of `project_parallel`."""
    return jnp.broadcast_to(jnp.expand_dims(image, view.ray_axis), shape) * spacing_mm


@dataclass(frozen=True)
class Patch:
    """A patch of a volume: its shape, where it starts `[3]` and the volume's shape `[3]`, z y x."""

    shape: tuple[int, ...]
    start: Array
    volume_shape: Array

    @staticmethod
    def whole(shape: tuple[int, ...]) -> "Patch":
        return Patch(shape, jnp.zeros(3), jnp.asarray(shape, jnp.float32))

    def places_mm(self, axis: int, spacing_mm: Array) -> Array:
        """Where the voxels along an axis lie, from the centre of the whole volume."""
        index = self.start[axis] + jnp.arange(self.shape[axis])
        return places_mm(index, self.volume_shape[axis], spacing_mm)

    def depths_mm(self, view: View, spacing_mm: Array) -> Array:
        """`[d]`: how far the planes lie from the isocentre towards the source."""
        return view.source_side * self.places_mm(view.ray_axis, spacing_mm)


def _shares(patch: Patch, view: View, size: tuple[int, ...], beam: Beam) -> tuple[Array, Array]:
    """`[d, u, z]` and `[d, v, c]`: the separable weights of the distance-driven projector."""
    depth = patch.depths_mm(view, beam[3])
    axes = zip((0, view.column_axis), size, strict=True)
    rows, columns = (cell_shares(patch.places_mm(a, beam[3]), depth, n, beam) for a, n in axes)
    return rows, columns


def project(
    density: Array, view: View, *, size: tuple[int, int], beam: Beam, patch: Patch | None = None
) -> Array:
    """Line integrals `[u, v]` of `density [z, y, x]` on a detector of `size` cells.

    Of a patch: its part of the whole volume's line integrals.
    """
    patch = patch or Patch.whole(density.shape)
    rows, columns = _shares(patch, view, size, beam)
    smeared = jnp.einsum("duz,dzc->duc", rows, view.planes(density), precision="highest")
    image = jnp.einsum("duc,dvc->uv", smeared, columns, precision="highest")
    return image * secants(*size, beam, like=image) * beam[3]


def _spread(image: Array, view: View, patch: Patch, beam: Beam) -> Array:
    """`[d, z, c]`: each voxel's sum over the cells that see it, weighted by its share of each."""
    rows, columns = _shares(patch, view, image.shape, beam)
    along_rows = jnp.einsum("duz,uv->dzv", rows, image, precision="highest")
    return jnp.einsum("dzv,dvc->dzc", along_rows, columns, precision="highest")


def back_project(image: Array, view: View, patch: Patch, *, beam: Beam) -> Array:
    """`[z, y, x]`: the adjoint of `project`, of the image `[u, v]`."""
    rows, columns = image.shape
    lengths_mm = secants(rows, columns, beam, like=image) * beam[3]
    return view.volume(_spread(image * lengths_mm, view, patch, beam))


def mean_back_projection(image: Array, view: View, patch: Patch, *, beam: Beam) -> Array:
    """`[z, y, x]`: the adjoint with each voxel's weights scaled to sum 1, so the unit is kept.

    A voxel gets the mean of the image over its shadow; outside the detector the image counts as 0.
    The weights' sum depends on depth alone: (voxel / cell width)^2.
    """
    depth = patch.depths_mm(view, beam[3])
    scale = (cell_width_mm(depth, beam) / beam[3]) ** 2
    return view.volume(_spread(image, view, patch, beam) * scale[:, None, None])
