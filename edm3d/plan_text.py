"""How a plan reads: sections of text, and what to change where the run does not fit.

Gigabytes are 1e9 bytes. Estimates are rounded to what they are worth.
"""

from collections.abc import Sequence

from edm3d.planning import USABLE, Layout, Plan
from edm3d.training.log import duration
from edm3d.training.memory import XLA_NEEDS

GB, TERA = 1e9, 1e12


def plan_text(plan: Plan, name: str) -> str:
    """The whole plan of the config `name`."""
    head = f"Plan of {name}: {_devices(plan)}, {verdict(plan)}"
    sections = [
        head,
        *_section("Network and work", _work(plan)),
        *_section("Memory of a device", _memory(plan)),
        *_section("What to change", mends(plan) or ["nothing: it fits as it is"]),
        *_section("Collectives of the compiled step", _collectives(plan)),
        *_section("Time", _time(plan)),
        *_section("Weak scaling, as many patches a device on more devices", _scaling(plan)),
        *_section(f"Layouts of {plan.devices} devices", _layouts(plan)),
        *_section("Learning rate and averaging", _schedule(plan)),
        *_section("Checkpoints", _checkpoints(plan)),
        *_section("Assumptions", _assumptions(plan)),
    ]
    return "\n".join(sections)


def verdict(plan: Plan) -> str:
    """Whether it fits, in a few words."""
    if plan.refusal:
        return "which its batch and mesh do not suit"
    return "fits" if plan.fits else "does not fit"


def mends(plan: Plan) -> list[str]:
    """Changes of config fields that make the run fit; where it fits, those that save work."""
    if plan.layout is None:
        return [plan.refusal or "", *_other_layouts(plan)]
    rows = plan.layout.batch // plan.layout.data
    now = plan.costs[plan.remat]
    if plan.fits:
        return _savings(plan, rows)
    lines = [
        f"--config.model.remat={remat} --config.train.patches_per_device={at_once}: a device "
        f"takes its {_patches(rows)} in {_parts(rows // at_once)}; work "
        f"{cost.flops / now.flops - 1:+.0%} a step"
        for remat, cost in plan.costs.items()
        if (at_once := _divisor(rows, cost.fits * plan.layout.space))
    ]
    lines += _other_layouts(plan, more_than=plan.layout.space)
    if not plan.fsdp and plan.layout.data > 1 and plan.fixed_bytes > plan.usable_bytes / 5:
        lines.append("--config.mesh.fsdp=True: parameters, average and moments split over data")
    return lines or ["nothing that a config can change: take a smaller network, patch or batch"]


def _other_layouts(plan: Plan, more_than: int = 0) -> list[str]:
    """Layouts that fit, of a larger `mesh.space`."""
    return [
        f"--config.mesh.space={part.space} --config.train.batch={part.batch} "
        f"--config.train.patches_per_device={part.at_once}: {part.data} x {part.space} devices"
        for part in plan.layouts
        if part.space > more_than and part.device_bytes <= plan.usable_bytes
    ]


def _savings(plan: Plan, rows: int) -> list[str]:
    assert plan.layout is not None
    now = plan.costs[plan.remat]
    return [
        f"not needed, but --config.model.remat={remat} --config.train.patches_per_device="
        f"{at_once} fits as well and saves {1 - cost.flops / now.flops:.0%} of the work"
        for remat, cost in plan.costs.items()
        if cost.flops < 0.99 * now.flops
        and (at_once := _divisor(rows, cost.fits * plan.layout.space))
    ]


def _divisor(rows: int, most: int) -> int:
    """The most patches at once that divide a device's rows; 0 if not one fits."""
    return next((n for n in range(min(rows, most), 0, -1) if rows % n == 0), 0)


def _devices(plan: Plan) -> str:
    kind = f"{plan.accelerator.memory_gb:g} GB and {plan.accelerator.peak_tflops:g} TFLOP/s"
    return f"{plan.devices} x {kind}"


def _work(plan: Plan) -> list[str]:
    now = plan.costs[plan.remat]
    return [
        f"{plan.parameters / 1e6:.1f} M parameters, {plan.channels} input channels",
        f"one patch forward: {plan.forward_flops / TERA:.3g} TFLOP; its gradient: "
        f"{3 * plan.forward_flops / TERA:.3g} TFLOP, with model.remat={plan.remat} "
        f"{now.flops / TERA:.3g} TFLOP",
        f"a step of {plan.batch} patches: {_number(plan.batch * now.flops / TERA)} TFLOP",
    ]


def _memory(plan: Plan) -> list[str]:
    lines = [
        f"state, gradients: {_gb(plan.fixed_bytes)}; usable: {_gb(plan.usable_bytes)} "
        f"({USABLE:.0%} of the device)",
        *_table(
            ("model.remat", "activations a patch", f"with x{XLA_NEEDS:g}", "patches that fit"),
            [
                (name, _gb(c.peak_bytes), _gb(c.needs_bytes(1)), f"{c.fits}")
                for name, c in plan.costs.items()
            ],
        ),
    ]
    if plan.layout:
        share = f" / {plan.layout.space} (mesh.space)" if plan.layout.space > 1 else ""
        lines.append(
            f"this config: {_patches(plan.layout.at_once)}{share} at once with model.remat="
            f"{plan.remat}: {_gb(plan.layout.device_bytes)} in all"
        )
    return lines


def _collectives(plan: Plan) -> list[str]:
    if plan.sent is None:
        return ["not compiled" if plan.layout else "no step: batch and mesh do not suit"]
    parameters = f"(the gradient has {_mb(4 * plan.parameters)})"
    rows = [(kind, _mb(size)) for kind, size in sorted(plan.sent.items())]
    notes = [f"results on one device; what stands in a loop counts once {parameters}"]
    return [*_table(("kind", "a step"), rows), *notes]


def _time(plan: Plan) -> list[str]:
    if plan.layout is None:
        return ["see the layouts below"]
    step, model = plan.layout.apart_s, 3 * plan.forward_flops * plan.layout.batch
    peak = TERA * plan.accelerator.peak_tflops * plan.devices
    return [
        f"at {plan.utilisation:.0%} of {plan.accelerator.peak_tflops:g} TFLOP/s a step takes "
        f"{step:.2g} s ({plan.layout.batch / step:.2g} patches/s, model-FLOP utilisation "
        f"{model / step / peak:.0%}); {plan.steps:,} updates take about {_long(step * plan.steps)}",
    ]


def _scaling(plan: Plan) -> list[str]:
    first = plan.scaling[0]

    def row(p: Layout) -> tuple[str, ...]:
        apart, together = (first.compute_s / s for s in (p.apart_s, p.together_s))
        send_ms = 1e3 * (p.apart_s - p.compute_s)
        numbers = (f"{p.devices}", f"{p.batch}", f"{p.compute_s:.2g} s", f"{send_ms:.2g} ms")
        return (*numbers, f"{apart:.1%}", f"{together:.1%}")

    head = ("devices", "train.batch", "compute", "send", "efficiency", "if sent meanwhile")
    return _table(head, [row(p) for p in plan.scaling])


def _layouts(plan: Plan) -> list[str]:
    head = ("mesh.data", "mesh.space", "train.batch", "at once", "memory", "", "compute", "send")
    head += ("patches/s", f"{_number(plan.steps * plan.batch / 1e6)} M patches")

    def row(p: Layout) -> tuple[str, ...]:
        fits = "fits" if p.device_bytes <= plan.usable_bytes else "does not fit"
        numbers = map(str, (p.data, p.space, p.batch, p.at_once))
        send_ms, speed = 1e3 * (p.apart_s - p.compute_s), p.batch / p.apart_s
        times = (f"{p.compute_s:.2g} s", f"{send_ms:.2g} ms", _number(speed))
        whole = _long(plan.steps * plan.batch / speed)
        return (*numbers, _gb(p.device_bytes), fits, *times, whole)

    return [
        *_table(head, [row(p) for p in plan.layouts]),
        "train.batch is the least from the config's on that mesh.data divides; nothing is sent "
        "while computing",
    ]


def _schedule(plan: Plan) -> list[str]:
    return _table(
        ("update", "patches seen", "learning rate", "EMA half-life, patches", "updates"),
        [
            (f"{n:,}", f"{seen:,}", f"{rate:.1e}", _number(half), _number(half / plan.batch))
            for n, seen, rate, half in plan.schedule
        ],
    )


def _checkpoints(plan: Plan) -> list[str]:
    size = plan.checkpoint_bytes
    return [
        f"{_gb(size)} each, {_gb(plan.keep_checkpoints * size)} for the newest "
        f"{plan.keep_checkpoints} that stay, before compression"
    ]


def _assumptions(plan: Plan) -> list[str]:
    near = plan.accelerator.near
    return [
        "FLOPs are those of convolutions and matrix products, padding and recomputing included",
        f"{plan.utilisation:.0%} of the peak is assumed (--utilisation), not measured; the paper's "
        "5 days on 8 A100 are 29 % without recomputing",
        f"activations: what is alive at the worst moment if XLA fuses number-by-number operations, "
        f"times {XLA_NEEDS:g} for what XLA's CPU compiler took beyond that without remat",
        "not measured on an accelerator; TPUs pad channels to 128, which can double activations "
        "of a network of 64",
        "GPUs need XLA_PYTHON_CLIENT_MEM_FRACTION=0.9: JAX takes 75 % of the memory otherwise",
        f"a ring of links sums the gradient: {plan.accelerator.link_gb_s:g} GB/s up to {near} "
        f"devices, {plan.accelerator.ring_gb_s(near + 1):g} GB/s beyond; latencies, the input "
        "and slow hosts are not counted",
        "with mesh.space also two planes a convolution; sums of norms and attention's keys are not "
        "counted, nor the work that thin slabs do less well",
    ]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    ]


def _number(value: float) -> str:
    """Three digits at most."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size < 10 * GB else f"{size / GB:.0f} GB"


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size} bytes"


def _patches(n: int) -> str:
    return f"{n} patch" if n == 1 else f"{n} patches"


def _parts(n: int) -> str:
    return "one part" if n == 1 else f"{n} parts"


def _long(seconds: float) -> str:
    return f"{seconds / 86400:.2g} days" if seconds > 86400 else duration(seconds)
