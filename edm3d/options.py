"""What the optional parts of a config mean, and what is wrong with them: all are off by default.

Takes sections of a config as plain mappings, for `edm3d.experiment`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from edm3d.diffusion import edm
from edm3d.diffusion.absence import GROUPS
from edm3d.diffusion.flavour import ADM, DDPMPP, Flavour
from edm3d.training.state import MAIN, Ema

Section = Mapping[str, Any]
NULLS = ("zero", "learned")
WEIGHTS = ("edm", "min_snr", "uniform")
FLAVOURS = {"ddpmpp": DDPMPP, "adm": ADM}


def weight_of(section: Section) -> edm.Weight:
    """The loss's weight that section `edm` names."""
    if section["loss_weight"] == "min_snr":
        return partial(edm.min_snr_weight, gamma=section["min_snr_gamma"])
    return edm.uniform_weight if section["loss_weight"] == "uniform" else edm.loss_weight


def flavour_of(name: Any) -> Flavour:
    """The kind of blocks that `model.flavour` names."""
    return FLAVOURS[name]


def dropout_of(section: Section) -> tuple[tuple[str, float], ...]:
    """The groups that a share of the samples goes without, with these shares."""
    return tuple((group, section[group]) for group in GROUPS if section[group])


def averages_of(config: Section) -> dict[str, Ema]:
    """All averages of the weights by name, the main one first."""
    further = {name: Ema(**section) for name, section in sorted(config["ema_lengths"].items())}
    return {MAIN: Ema(**config["ema"]), **further}


def patches_of(config: Section) -> tuple[tuple[int, float], ...]:
    """The sides of training patches and their shares of the steps."""
    several = tuple((side, share) for side, share in config["patch_sizes"])
    return several or ((config["patch"], 1.0),)


def option_faults(config: Section) -> list[str]:
    """What is wrong with a config's options, a line each."""
    return [
        *_shares(config),
        *_names(config),
        *_averages(config["ema"], config["ema_lengths"]),
        *_patches(config["patch_sizes"]),
    ]


def _shares(config: Section) -> list[str]:
    dropout, train = config["condition_dropout"], config["train"]
    shares = {f"condition_dropout.{group}": dropout[group] for group in GROUPS}
    shares["train.identity_share"] = train["identity_share"]
    faults = [
        f"{name} is {share}; give a share between 0 and 1"
        for name, share in shares.items()
        if not 0 <= share <= 1
    ]
    if dropout["prior_ventilation"] and not config["conditioning"]["prior_ventilation"]:
        faults.append(
            f"condition_dropout.prior_ventilation is {dropout['prior_ventilation']}, but "
            f"conditioning.prior_ventilation is False; set it to 0, or give the prior's settings"
        )
    return faults


def _names(config: Section) -> list[str]:
    named = {
        "condition_dropout.null": (config["condition_dropout"]["null"], NULLS),
        "edm.loss_weight": (config["edm"]["loss_weight"], WEIGHTS),
        "model.flavour": (config["model"]["flavour"], tuple(FLAVOURS)),
    }
    faults = [
        f"{name} is {value!r}; use one of {', '.join(choices)}"
        for name, (value, choices) in named.items()
        if value not in choices
    ]
    if (gamma := config["edm"]["min_snr_gamma"]) <= 0:
        faults.append(f"edm.min_snr_gamma is {gamma}; give a number above 0")
    return faults


def _averages(main: Section, further: Section) -> list[str]:
    faults, sections = [], {f"ema_lengths.{k}": v for k, v in further.items()}
    for name, section in {"ema": main, **sections}.items():
        fields = dict(section) if hasattr(section, "items") else section
        if not isinstance(fields, dict) or set(fields) != {"half_life_samples", "ramp"}:
            faults.append(f"{name} is {fields}; give half_life_samples and ramp")
        elif min(fields["half_life_samples"], fields["ramp"]) <= 0:
            faults.append(f"{name} is {fields}; give numbers above 0")
    for name in further:
        if name == MAIN or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            faults.append(
                f"ema_lengths has a {name!r}; use another name than {MAIN!r}, of letters, digits, _"
            )
    return faults


def _patches(sizes: Sequence) -> list[str]:
    for pair in sizes:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            return [f"patch_sizes has {pair}; give pairs of a side and its share of the steps"]
        side, share = pair
        if not isinstance(side, int) or side < 1 or not 0 < share <= 1:
            return [f"patch_sizes has {pair}; give a whole side and a share between 0 and 1"]
    if sizes and abs(sum(share for _, share in sizes) - 1) > 1e-6:
        total = sum(share for _, share in sizes)
        return [f"patch_sizes has shares that sum to {total:g}; make it 1"]
    if len({side for side, _ in sizes}) < len(sizes):
        return [f"patch_sizes is {sizes}, a side twice; add up its shares"]
    return []
