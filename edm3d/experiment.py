"""What a config and a data set together define: the objective, the optimiser, the run folder.

Takes sections of a config as plain mappings; `edm3d.train` and `edm3d.sample` share it.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax

from edm3d.data.cases import DatasetInfo
from edm3d.data.xray_geometry import Geometry
from edm3d.diffusion.conditioning import Conditioning
from edm3d.diffusion.unet import REMAT, UNet, stride
from edm3d.errors import InputError
from edm3d.options import dropout_of, flavour_of, option_faults, weight_of
from edm3d.training.objective import Objective
from edm3d.training.state import learning_rate

Section = Mapping[str, Any]


def objective_of(config: Section, info: DatasetInfo) -> Objective:
    """Network, conditioning and noise distribution of a run on the data set `info`."""
    edm = {name: config["edm"][name] for name in ("sigma_data", "p_mean", "p_std")}
    dropout = dropout_of(config["condition_dropout"])
    measured = config["data"]["residual_scale"] == "measured"
    conditioning = Conditioning(
        window_hu=info.window_hu,
        residual_scale=edm["sigma_data"] / info.residual_std if measured else 1.0,
        droppable=tuple(group for group, _ in dropout),
        learned_null=bool(dropout) and config["condition_dropout"]["null"] == "learned",
        **config["conditioning"],
    )
    return Objective(
        model_of(config["model"]),
        conditioning,
        **edm,
        weight=weight_of(config["edm"]),
        condition_dropout=dropout,
        identity_share=config["train"]["identity_share"],
    )


def model_of(section: Section) -> UNet:
    """The network; `dtype` is a name such as `bfloat16`, sequences become tuples."""
    fields = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in section.items()}
    flavour = flavour_of(fields.pop("flavour"))
    return UNet(**{**fields, "dtype": jnp.dtype(fields["dtype"]).type}, flavour=flavour)


def optimizer_of(config: Section) -> tuple[optax.GradientTransformation, Callable]:
    """Adam with the learning rate's ramp, and the schedule alone for logging."""
    section = dict(config["optimizer"])
    schedule = learning_rate(
        section.pop("learning_rate"),
        section.pop("ramp_updates"),
        batch_size=config["train"]["batch"],
        paper_literal=config["paper_literal"],
    )
    return optax.adam(schedule, **section), schedule


_WHOLE_AND_POSITIVE = (
    "patch",
    "model.channels",
    "model.blocks",
    "train.batch",
    "train.steps",
    "train.log_every",
    "train.validate_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.stop_after_skipped",
    "train.sheet_patches",
)
DTYPES = ("float32", "bfloat16", "float16")


def check_numbers(config: Section) -> None:
    """Raises one `InputError` for all numbers and names that no run can be made with."""
    faults = [
        f"{name} is {value}; give a whole number of at least 1"
        for name in _WHOLE_AND_POSITIVE
        if not isinstance(value := _at(config, name), int) or value < 1
    ]
    if config["seed"] < 0:
        faults.append(f"seed is {config['seed']}; give 0 or more")
    if (dtype := config["model"]["dtype"]) not in DTYPES:
        faults.append(f"model.dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
    if (remat := config["model"]["remat"]) not in REMAT:
        faults.append(f"model.remat is {remat!r}; use one of {', '.join(REMAT)}")
    if (at_once := config["train"]["patches_per_device"]) < 0:
        faults.append(f"train.patches_per_device is {at_once}; give 0 (all) or more")
    train = config["train"]
    for name in ("keep_every", "skip_bad_records", "sheet_every"):
        if not isinstance(train[name], int) or train[name] < 0:
            faults.append(f"train.{name} is {train[name]}; give a whole number, 0 for none")
    if train["sheet_steps"] < 2:
        faults.append(f"train.sheet_steps is {train['sheet_steps']}; give at least 2")
    if not (math.isfinite(train["peak_tflops"]) and train["peak_tflops"] >= 0):
        faults.append(f"train.peak_tflops is {train['peak_tflops']}; give 0 (by kind) or more")
    if not faults and train["validate_every"] % train["log_every"]:
        faults.append(
            f"train.validate_every is {train['validate_every']}, no multiple of train.log_every "
            f"{train['log_every']}, at which it is looked at; make it one"
        )
    faults += option_faults(config)
    if faults:
        raise InputError("\n".join(faults))


def _at(config: Section, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def check_patch(patch: int, levels: int) -> None:
    """Raises `InputError` unless the network can halve `patch` at every level."""
    s = stride(levels)
    if patch < s or patch % s:
        low = patch // s * s
        mend = f"use {low} or {low + s}" if low else f"use {s}"
        raise InputError(f"patch {patch} is not divisible by {s} (= 2**(levels - 1)); {mend}")


def check_data(config: Section, info: DatasetInfo) -> None:
    """Raises `InputError` where records were built with other settings than the config states."""
    data = config["data"]
    built = {
        "spacing_mm": info.spacing_mm,
        "window_hu": info.window_hu,
        "block": info.block,
        "antialias": info.antialias,
        **Geometry.from_json(info.geometry).settings,
        "scalar_ranges": asdict(info.scalar_ranges),
    }
    for name, value in built.items():
        if json_of(value) != (stated := json_of(_plain(data[name]))):
            raise InputError(
                f"records were built with data.{name}={value}, the config says {stated}; "
                f"build records with this config, or change it"
            )
    if data["residual_scale"] not in ("measured", "none"):
        raise InputError(
            f"data.residual_scale is {data['residual_scale']!r}; use 'measured' or 'none'"
        )


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


def write_json(path: Path, content: Any) -> None:
    """Writes `content` to `path` whole or not at all."""
    draft = path.with_name(path.name + ".partial")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(draft, path)


# Fields that runs of earlier versions lack.
_LATEST_FIELDS = (
    *("patch_sizes", "condition_dropout", "ema_lengths", "train.identity_share"),
    *("edm.loss_weight", "model.flavour"),
)


def read_run_config(run: Path) -> dict[str, Any]:
    """The config that a run folder was last trained with."""
    path = run / "config.json"
    if not path.is_file():
        raise InputError(f"{run} is no run folder (no config.json); give the one edm3d.train wrote")
    config = read_json(path)
    if missing := [name for name in _LATEST_FIELDS if not _has(config, name)]:
        raise InputError(
            f"{path} has no {missing[0]}, as a run of an earlier edm3d; use the version that "
            "trained it, or train it again into another folder"
        )
    return config


def _has(config: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


def json_of(config: Any) -> Any:
    """The config as JSON would return it: tuples become lists."""
    return json.loads(json.dumps(config))


def read_json(path: Path) -> Any:
    """The content of a JSON file; `InputError` where it is none."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); remove it and run again") from error


def check_same_geometry(run: DatasetInfo, records: DatasetInfo, folder: Path) -> None:
    """Raises `InputError` unless records were made as those that the run was trained on."""
    for name, unit in (
        ("spacing_mm", " mm"),
        ("window_hu", " HU"),
        ("antialias", ""),
        ("scalar_ranges", ""),
        ("geometry", ""),
    ):
        trained, given = getattr(run, name), getattr(records, name)
        if trained != given:
            raise InputError(
                f"{folder} has {name} {given}{unit}, the run was trained with {trained}{unit}; "
                f"build the records with the run's config"
            )
