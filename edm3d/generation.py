"""From trained weights and cases to CTs: jitted generation of whole volumes in batches.

Shapes: b batch, z y x voxels. The sampler's mathematics is in `edm3d.diffusion.sampler`.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from edm3d.data.cases import Case, DatasetInfo
from edm3d.data.pipeline import whole_batch
from edm3d.diffusion import edm, sampler
from edm3d.diffusion.conditioning import add_residual
from edm3d.diffusion.unet import stride
from edm3d.errors import InputError
from edm3d.training import mesh as meshes
from edm3d.training.objective import Objective, Params


@dataclass(frozen=True)
class Solver:
    """How samples are drawn; all of it stands in case.json."""

    steps: int
    second_order: bool
    sigma_min: float
    sigma_max: float
    rho: float
    churn: sampler.Churn

    @property
    def nfe(self) -> int:
        """Denoiser calls of one sample."""
        return sampler.evaluations(self.steps, second_order=self.second_order)

    @property
    def sigmas(self) -> np.ndarray:
        """`[steps + 1]` noise levels."""
        return edm.sigma_schedule(
            self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho
        )


@dataclass(frozen=True)
class Job:
    """One volume to draw: sample number `member` of a case."""

    case: Case
    member: int


def member_key(seed: int, case_id: str, member: int) -> jax.Array:
    """The random stream of one volume: a function of these three alone."""
    case_key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(case_id.encode()))
    return jax.random.fold_in(case_key, member)


def padded_shape(shape_zyx: Sequence[int], *, patch: int, multiple: int) -> tuple[int, ...]:
    """Sides rounded up to a multiple of `multiple`, and to a training patch at least."""
    return tuple(max(-(-n // multiple) * multiple, patch) for n in shape_zyx)


def build_generator(objective: Objective, solver: Solver, mesh: jax.sharding.Mesh) -> Callable:
    """Jitted `(params, batch, keys [b]) -> int16 HU [b, z, y, x], bool [b]: whether all is finite`.

    Rows are shared out over `data`.
    """

    def generate(
        params: Params, batch: dict[str, jax.Array], keys: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        denoise = partial(
            edm.denoise, objective.network(params, batch), sigma_data=objective.sigma_data
        )
        shape = (*batch["prior_hu"].shape[1:], 1)
        x = sampler.sample(
            denoise,
            keys,
            shape,
            solver.sigmas,
            churn=solver.churn,
            second_order=solver.second_order,
        )
        hu = add_residual(batch["prior_hu"], x, objective.conditioning)
        # NaN would become 0 HU, the density of water
        return jnp.round(hu).astype(jnp.int16), jnp.isfinite(x).all(axis=(1, 2, 3, 4))

    return jax.jit(generate, out_shardings=meshes.replicated(mesh))


@dataclass(frozen=True)
class Drawer:
    """Draws jobs in batches of `batch` on a mesh with the weights `params`."""

    objective: Objective
    solver: Solver
    mesh: jax.sharding.Mesh
    params: Params
    info: DatasetInfo
    patch: int
    batch: int
    seed: int

    def shape_of(self, case: Case) -> tuple[int, ...]:
        """The padded shape a case is drawn in; one compilation a shape."""
        multiple = stride(len(self.objective.model.channel_mult))
        return padded_shape(case.volume_shape_zyx, patch=self.patch, multiple=multiple)

    def draw(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, np.ndarray]]:
        """Yields each job with its int16 HU `[z, y, x]`; neighbours of one shape share a call."""
        generate = build_generator(self.objective, self.solver, self.mesh)
        for shape, group in itertools.groupby(jobs, key=lambda job: self.shape_of(job.case)):
            for chunk in _chunks(group, self.batch):
                volumes = self._generate(generate, chunk, shape)
                for job, hu in zip(chunk, volumes, strict=False):
                    z, y, x = job.case.volume_shape_zyx
                    yield job, hu[:z, :y, :x]

    def _generate(self, generate: Callable, jobs: list[Job], shape: tuple[int, ...]) -> np.ndarray:
        """`[batch, z, y, x]`; a short last batch is filled up with its last job."""
        full = jobs + [jobs[-1]] * (self.batch - len(jobs))
        cases = [dataclasses.replace(job.case, target_hu=None) for job in full]
        rows = [whole_batch(case, self.info, padded_shape_zyx=shape) for case in cases]
        batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        keys = jnp.stack([member_key(self.seed, job.case.case_id, job.member) for job in full])
        on_devices = meshes.to_devices(self.mesh, batch)
        volumes, finite = jax.device_get(generate(self.params, on_devices, keys))
        for job, is_finite in zip(jobs, finite, strict=False):
            if not is_finite:
                raise InputError(
                    f"sample {job.member} of case {job.case.case_id} is not finite; lower "
                    f"--s_churn, or sample an earlier --checkpoint_step"
                )
        return volumes


def _chunks(items: Iterable, n: int) -> Iterator[list]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, n)):
        yield chunk
