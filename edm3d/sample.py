"""Draws CTs from a trained run: `python -m edm3d.sample --run=runs/ards --out=runs/ards/samples`.

Takes the test cases of the run's records, or with `--manifest` every pair of a scan table, and
writes a folder a case: `generated.nii.gz` in HU on the prior's working grid; with several members
that is their mean, beside `std.nii.gz` and `members/`. A case with a `case.json` is done: an
interrupted batch goes on where it stopped.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from edm3d import command, experiment
from edm3d.data.cases import Case, DatasetInfo, read_cases, read_dataset_info
from edm3d.data.film_match import LOW_CORRELATION
from edm3d.data.protocols import PROTOCOLS, protocols_of
from edm3d.diffusion.absence import GROUPS
from edm3d.diffusion.sampler import Churn
from edm3d.errors import InputError
from edm3d.generation import Drawer, Job, Solver
from edm3d.sample_folder import CaseWriter, case_record, is_drawn, weights_checksum
from edm3d.told import told_of
from edm3d.training import mesh as meshes
from edm3d.training.checkpoint import abstract_like
from edm3d.training.objective import abstract_params
from edm3d.training.restore import read_ema
from edm3d.training.state import MAIN


@dataclass(frozen=True)
class Request:
    """What to draw, from what, and where to; the command's flags.

    Attributes:
        run: run folder of `edm3d.train`.
        records: folder of records; else the run's own.
        split: which of the records, val or test; those of train are blocks, no whole chests.
        manifest: scan table to sample instead of records.
        allow_outside: let the table's paths leave the folder of the table.
        out: where the case folders go; else `run`/samples.
        protocol: only cases of these protocols; all cases if empty.
        limit: at most this many cases.
        members: samples drawn of each case.
        batch: volumes a device call; else one a device.
        second_order: Heun's method, else Euler's.
        nfe: denoiser calls a sample; else the config's steps.
        s_churn: noise added back, 0 is deterministic; else the config's.
        seed: seed of the samples.
        checkpoint_step: which checkpoint; else the newest.
        ema: which average of the weights, `main` or one of the config's `ema_lengths`.
        without: groups of conditions to go without.
        guidance: how much the conditions count; 1 as trained, more is stronger.
    """

    run: Path
    records: Path | None = None
    split: str = "test"
    manifest: Path | None = None
    allow_outside: bool = False
    out: Path | None = None
    protocol: tuple[str, ...] = ()
    limit: int | None = None
    members: int = 1
    batch: int | None = None
    second_order: bool = True
    nfe: int | None = None
    s_churn: float | None = None
    seed: int = 0
    checkpoint_step: int | None = None
    ema: str = MAIN
    without: tuple[str, ...] = ()
    guidance: float = 1.0


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags in `values`."""
    flags.DEFINE_string("run", None, "Run folder of edm3d.train.", flag_values=values)
    flags.DEFINE_string(
        "records", None, "Folder of records; else the run's own.", flag_values=values
    )
    flags.DEFINE_enum("split", "test", ["val", "test"], "Which of the records.", flag_values=values)
    flags.DEFINE_string(
        "manifest", None, "Scan table to sample instead of records.", flag_values=values
    )
    flags.DEFINE_bool(
        "allow_outside",
        False,
        "Let the table's paths leave the table's folder.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "out", None, "Where the case folders go; else RUN/samples.", flag_values=values
    )
    flags.DEFINE_list(
        "protocol", [], f"Only cases of these: {', '.join(PROTOCOLS)}.", flag_values=values
    )
    flags.DEFINE_integer(
        "limit", None, "At most this many cases.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "members", 1, "Samples drawn of each case.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "batch", None, "Volumes a call; else one a device.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_enum(
        "solver", "heun", ["heun", "euler"], "Order 2 or order 1.", flag_values=values
    )
    flags.DEFINE_integer(
        "nfe", None, "Denoiser calls a sample; else the config's steps.", flag_values=values
    )
    flags.DEFINE_float(
        "s_churn", None, "Noise added back; 0 is deterministic.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Seed of the samples.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer(
        "checkpoint_step", None, "Which checkpoint; else the newest.", flag_values=values
    )
    flags.DEFINE_string("ema", MAIN, "Which average of the weights.", flag_values=values)
    flags.DEFINE_list("without", [], f"Go without these: {', '.join(GROUPS)}.", flag_values=values)
    flags.DEFINE_float(
        "guidance", 1.0, "How much the conditions count; 1 as trained.", flag_values=values
    )


def request_of_flags(f: flags.FlagValues = flags.FLAGS) -> Request:
    """The request that the command line makes."""
    if f.run is None:
        raise InputError("flag --run is missing; give the run folder of edm3d.train")
    path = lambda name: Path(name) if name else None  # noqa: E731
    return Request(
        run=Path(f.run),
        records=path(f.records),
        split=f.split,
        manifest=path(f.manifest),
        allow_outside=f.allow_outside,
        out=path(f.out),
        protocol=tuple(f.protocol),
        limit=f.limit,
        members=f.members,
        batch=f.batch,
        second_order=f.solver == "heun",
        nfe=f.nfe,
        s_churn=f.s_churn,
        seed=f.seed,
        checkpoint_step=f.checkpoint_step,
        ema=f.ema,
        without=tuple(f.without),
        guidance=f.guidance,
    )


def solver_of(
    config: experiment.Section, *, second_order: bool, nfe: int | None, s_churn: float | None
) -> Solver:
    """The config's solver with the flags' changes."""
    schedule, churn = dict(config["schedule"]), dict(config["churn"])
    if nfe is not None:
        schedule["steps"] = _steps_of(nfe, second_order)
    if s_churn is not None:
        churn["s_churn"] = s_churn
    if schedule["steps"] < 2:
        raise InputError(f"schedule.steps is {schedule['steps']}; a schedule needs at least 2")
    return Solver(**schedule, second_order=second_order, churn=Churn(**churn))


def _steps_of(nfe: int, second_order: bool) -> int:
    least = 3 if second_order else 2
    if nfe < least:
        raise InputError(f"--nfe is {nfe}; a sample needs at least {least} denoiser calls")
    if second_order and nfe % 2 == 0:
        raise InputError(
            f"--nfe is {nfe}, but N steps of Heun make 2N - 1 calls, an odd number; "
            f"use {nfe - 1} or {nfe + 1}, or --solver=euler"
        )
    return (nfe + 1) // 2 if second_order else nfe


def read_inputs(request: Request, config: experiment.Section) -> tuple[Sequence[Case], DatasetInfo]:
    """All cases that could be drawn, checked against what the run was trained on."""
    info = read_dataset_info(request.run)
    if request.manifest:
        if request.records:
            raise InputError("--manifest and --records are both given; give one of them")
        from edm3d.data.records import cases_of_manifest

        return cases_of_manifest(request.manifest, info, allow_outside=request.allow_outside), info
    records = request.records or Path(config["records"])
    experiment.check_same_geometry(info, read_dataset_info(records), records)
    return read_cases(records, request.split), info


@dataclass(frozen=True)
class Entry:
    """A case to draw: where it stands among the cases, and what case.json will say."""

    index: int
    case_id: str
    shape: tuple[int, ...]
    record: dict[str, Any]


def select(
    request: Request, cases: Sequence[Case], entry_of: Callable[[int, Case], Entry]
) -> list[Entry]:
    """The cases of the asked protocols, at most the asked number, each read once."""
    asked = set(request.protocol)
    if unknown := asked - set(PROTOCOLS):
        raise InputError(
            f"--protocol is {', '.join(sorted(unknown))}; choose of {', '.join(PROTOCOLS)}"
        )
    chosen: list[Entry] = []
    for index in range(len(cases)):
        if len(chosen) == request.limit:
            break
        case = cases[index]
        if not asked or asked.intersection(protocols_of(case)):
            chosen.append(entry_of(index, case))
    if not chosen:
        source = request.manifest or f"split {request.split} of the records"
        of = f" of protocol {', '.join(sorted(asked))}" if asked else ""
        raise InputError(f"{source} holds no case{of}; choose other cases")
    return chosen


def sample(request: Request) -> None:
    """Draws the selected cases that the output folder does not hold yet."""
    config = experiment.read_run_config(request.run)
    solver = solver_of(
        config, second_order=request.second_order, nfe=request.nfe, s_churn=request.s_churn
    )
    cases, info = read_inputs(request, config)
    drawer, step = load_drawer(request, config, info, solver)
    record = partial(
        case_record,
        solver=solver,
        members=request.members,
        seed=request.seed,
        checkpoint_step=step,
        average=request.ema,
        weights_sha256=weights_checksum(drawer.params),
        told=drawer.told,
    )
    chosen = select(
        request,
        cases,
        lambda i, case: Entry(i, case.case_id, drawer.shape_of(case), record(case)),
    )
    out = request.out or request.run / "samples"
    todo = [entry for entry in chosen if not is_drawn(out / entry.case_id, entry.record)]
    print(
        f"{len(chosen)} cases ({len(chosen) - len(todo)} drawn before), {request.members} members "
        f"of {solver.nfe} denoiser calls, checkpoint after {step} updates",
        flush=True,
    )
    todo.sort(key=lambda entry: (entry.shape, entry.index))  # one compilation a shape
    draw_all(drawer, cases, todo, out, request.members)
    print(f"the samples of {len(chosen)} cases are in {out}", flush=True)


def draw_all(
    drawer: Drawer, cases: Sequence[Case], todo: list[Entry], out: Path, members: int
) -> None:
    """Draws and writes the members of each case, one case after the other."""
    records = {entry.case_id: entry.record for entry in todo}
    jobs = itertools.chain.from_iterable(
        [Job(case, m) for m in range(members)] for case in (cases[e.index] for e in todo)
    )
    writer: CaseWriter | None = None
    for job, hu in tqdm(drawer.draw(jobs), total=len(todo) * members, unit="CT"):
        if job.member == 0 or writer is None:
            writer = CaseWriter(out / job.case.case_id, job.case, members)
            for told in poor_films(job.case):
                tqdm.write(told)
        writer.add(hu)
        if job.member == members - 1:
            writer.finish(records[job.case.case_id])


def poor_films(case: Case) -> list[str]:
    """A line for each film that hardly looks like its prior's projection."""
    return [
        f"warning: {case.case_id}: the {view} film correlates {fit['correlation']:.2f} with the "
        f"prior's projection, below {LOW_CORRELATION:g}; is it of this subject, view and scale? "
        "look at it with data_prep/preview_xrays.py"
        for view, fit in case.film_fits.items()
        if fit["correlation"] < LOW_CORRELATION
    ]


def load_drawer(
    request: Request, config: experiment.Section, info: DatasetInfo, solver: Solver
) -> tuple[Drawer, int]:
    """What draws, with the averaged weights of the asked checkpoint, and that one's step."""
    objective = experiment.objective_of(config, info)
    mesh = meshes.make_mesh()
    n = mesh.shape["data"]
    batch = request.batch or n
    if batch % n:
        raise InputError(
            f"--batch is {batch}, not divisible by {n} devices; use {n} times a number"
        )
    shapes = abstract_params(objective)
    shardings = jax.tree.map(lambda _: meshes.replicated(mesh), shapes)
    told = told_of(objective.conditioning, request.without, request.guidance)
    if request.ema not in (averages := {MAIN, *config["ema_lengths"]}):
        raise InputError(f"--ema is {request.ema}; choose of {', '.join(sorted(averages))}")
    abstract = abstract_like(shapes, shardings)
    step, params = read_ema(request.run, abstract, request.checkpoint_step, average=request.ema)
    patch = config["patch"]
    return Drawer(objective, solver, mesh, params, info, patch, batch, request.seed, told), step


def main(_: list[str]) -> None:
    sample(request_of_flags())


if __name__ == "__main__":
    define_flags()
    command.run(main)
