"""Tells what a run needs before it is made: `python -m edm3d.plan --config=configs/ards.py`.

Parameters, FLOPs, memory, collectives, time, scaling, learning rate and checkpoints, for so many
devices of a kind that need not be there: the step is compiled for CPUs that stand for them. Says
what to change where it does not fit. A plan is information: exit code 0 when the run fits and 2
when it does not, so that a script can ask before it takes the devices.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from edm3d import command, experiment
from edm3d.errors import InputError
from edm3d.plan_text import mends, plan_text, verdict
from edm3d.planning import Plan, make_plan
from edm3d.training.hardware import ACCELERATORS, Accelerator

EXIT_DOES_NOT_FIT = 2
Config = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags in `values`."""
    config_flags.DEFINE_config_file(
        "config", None, "Config file.", lock_config=True, flag_values=values
    )
    flags.DEFINE_integer(
        "devices", 8, "Accelerators that the run would use.", 1, flag_values=values
    )
    flags.DEFINE_enum("device", "a100-40", [*ACCELERATORS], "Their kind.", flag_values=values)
    flags.DEFINE_float(
        "device_memory_gb", None, "1e9 bytes a device; else its kind's.", 1, flag_values=values
    )
    flags.DEFINE_float(
        "peak_tflops", None, "Peak bf16 TFLOP/s; else of its kind.", 1e-3, flag_values=values
    )
    told = "1e9 bytes/s from a device to the next, everywhere; else of its kind."
    flags.DEFINE_float("link_gb_s", None, told, 1e-3, flag_values=values)
    told = "Share of the peak at which steps run."
    flags.DEFINE_float("utilisation", 0.3, told, 1e-3, 1.0, flag_values=values)
    told = "Compile the step to count collectives: minutes."
    flags.DEFINE_boolean("compile", True, told, flag_values=values)
    flags.DEFINE_string(
        "json", None, "Write the plan to this JSON file as well.", flag_values=values
    )


def accelerator_of(
    kind: str,
    *,
    memory_gb: float | None = None,
    peak_tflops: float | None = None,
    link_gb_s: float | None = None,
) -> Accelerator:
    """A known kind with what is given instead of its own figures."""
    given = {"memory_gb": memory_gb, "peak_tflops": peak_tflops, "link_gb_s": link_gb_s}
    given |= {"far_gb_s": link_gb_s}
    return dataclasses.replace(
        ACCELERATORS[kind], **{k: v for k, v in given.items() if v is not None}
    )


def write_plan(plan: Plan, path: Path) -> None:
    """The plan as JSON, with the verdict and what to change."""
    content = dataclasses.asdict(plan)
    experiment.write_json(path, content | {"verdict": verdict(plan), "mends": mends(plan)})


def main(_: list[str]) -> None:
    f = flags.FLAGS
    if f.config is None:
        raise InputError("flag --config is missing; give a config file such as configs/ards.py")
    if f.json and not Path(f.json).parent.is_dir():
        raise InputError(f"folder of --json={f.json} does not exist; make it, or name another")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", f.devices)
    accelerator = accelerator_of(
        f.device, memory_gb=f.device_memory_gb, peak_tflops=f.peak_tflops, link_gb_s=f.link_gb_s
    )
    plan = make_plan(
        f.config, accelerator, devices=f.devices, utilisation=f.utilisation, compiled=f.compile
    )
    print(plan_text(plan, config_flags.get_config_filename(f["config"])), flush=True)
    if f.json:
        write_plan(plan, Path(f.json))
    if not plan.fits:
        sys.exit(EXIT_DOES_NOT_FIT)


if __name__ == "__main__":
    define_flags()
    command.run(main)
