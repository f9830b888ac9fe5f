"""`moediff enhance`: super-resolve one scan."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli.reading import add_reading, read, scan_path
from moediff.cli.terminal import progress_bar
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.inference.enhancer import Enhancer
    from moediff.inference.options import EnhanceOptions
    from moediff.inference.run import EnhanceRequest
    from moediff.inference.sidecar import Sidecar
    from moediff.io.scans import Loaded


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "enhance", help="super-resolve one scan", description=f"Super-resolve one scan. {RESEARCH_ONLY}"
    )
    _add_options(parser)
    parser.set_defaults(call=enhance_command)


def _size_mm(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # most often the scan, which this option's numbers would swallow
        raise argparse.ArgumentTypeError(f"{text!r} is no number of mm: name the scan before this option") from None


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "source",
        type=scan_path,
        metavar="INPUT",
        help=".nii, .nii.gz, .mgz or .hdr/.img, or folder or zip of DICOM files",
    )
    add("-o", "--output", type=Path, help="result (default: <stem>_desc-sr_<suffix>.nii.gz beside the input)")
    add(
        "--voxel-size",
        type=_size_mm,
        nargs="+",
        metavar="MM",
        help="one number, or three in the input's axis order (default: axes coarser than 1 mm become 1 mm where any "
        "is coarser than 1.2 mm, else all are halved)",
    )
    add("--like", type=Path, metavar="REF", help="land exactly on this scan's grid")
    add(
        "--mode",
        default="faithful",
        choices=("faithful", "detail"),
        help="faithful (default): least error on average; detail: one plausible sample, sharper but further from the "
        "truth",
    )
    add("--steps", type=int, default=3, help="network evaluations of a sample (default 3)")
    add("--sampler", default="dpm-solver++", metavar="NAME", help="of samples: dpm-solver++ (default), heun or euler")
    add(
        "--mirrors",
        type=int,
        default=1,
        choices=(1, 2, 4, 8),
        metavar="N",
        help="average over N mirrored readings, 2, 4 or 8: better, N times as long",
    )
    add(
        "--samples",
        type=int,
        default=1,
        help="take the uncertainty from N samples (default 1: foretold); detail: the first of them is the result",
    )
    add(
        "--uncertainty",
        type=Path,
        metavar="PATH",
        help="write the voxel-wise standard deviation (in mode detail: needs --samples 2 or more)",
    )
    add("--experts", type=Path, metavar="PATH", help="write the 4-D map of gate weights")
    add("--each-expert", type=Path, metavar="PATH", help="write every expert's own result, 4-D (one evaluation each)")
    add("--differences", type=Path, metavar="PATH", help="write each expert minus aggregate, then minus input, 4-D")
    add("--mask", type=Path, metavar="PATH", help="write where the network worked")
    add("--report", type=Path, metavar="HTML", help="write a page that shows the result (one file, works offline)")
    add("--dicom-out", type=Path, metavar="FOLDER", help="write a new DICOM series too (DICOM input only)")
    add("--bundle", type=Path, help="model folder (default: the embedded weights)")
    add("--adapt", action="store_true", help="thick slices: let the weights learn on from this scan first (minutes)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="what the network computes in (default float32): bfloat16 is 1.6 times as fast where a processor has it",
    )
    add("--threads", type=int, help="CPU threads")
    add("--seed", type=int, default=0, help="of samples and of --adapt (default 0)")
    add("--mem-mb", type=int, default=1600, help="bound on a tile's activations (default 1600)")
    add("--even-slices", action="store_true", help="take out what alternates in brightness from slice to slice")
    add("--no-consistency", action="store_true", help="do not correct what the measurement contradicts")
    add_reading(parser)
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("--dry-run", action="store_true", help="say what would be done and stop")
    add("--json", action="store_true", help="print the sidecar's content to standard output")
    add("-q", "--quiet", action="store_true", help="print no progress, no summary and no warnings")
    add("-v", "--verbose", action="store_true", help="print timings and settings")


def enhance_command(args: argparse.Namespace) -> int:
    """Enhance one scan and write it."""
    from moediff.inference.outputs import OutputPaths
    from moediff.inference.run import EnhanceRequest, enhance_to
    from moediff.io.naming import default_output

    tune_allocator()
    options = _options(args)
    loaded = read(args.source, args)
    outputs = OutputPaths(
        scan=args.output or default_output(args.source, loaded.stem),
        uncertainty=args.uncertainty,
        experts=args.experts,
        mask=args.mask,
        each_expert=args.each_expert,
        differences=args.differences,
        report=args.report,
        dicom=args.dicom_out,
    )
    request = EnhanceRequest(
        source=loaded,
        options=options,
        outputs=outputs,
        overwrite=args.overwrite,
        protected=() if args.like is None else (args.like,),
    )
    if args.adapt:
        _check_adaptable(loaded, options)
    if args.dry_run:
        print(json.dumps(asdict(_dry_run(request, args)), indent=2))
        return 0
    with progress_bar(quiet=args.quiet or not sys.stderr.isatty()) as report:
        result = enhance_to(request, lambda scan: _enhancer(scan, options, args), report)
    _say(result.sidecar, outputs.scan, args)
    return 0


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What --dry-run prints: both grids, memory at its peak, files to write, and warnings known before any work."""

    input: tuple[int, ...]
    output: tuple[int, ...]
    output_spacing_mm: tuple[float, ...]
    peak_memory_mib: int
    files: tuple[str, ...]
    warnings: tuple[str, ...]


def _dry_run(request: EnhanceRequest, args: argparse.Namespace) -> DryRun:
    """Refuse as a run does, and describe it."""
    from moediff.inference.grid_plan import target_grid
    from moediff.inference.memory_estimate import predicted_mib
    from moediff.inference.route import route

    loaded, options = request.read()
    request.check_outputs()
    network = _plain_enhancer(args).bundle.config.denoiser
    source = loaded.volume.grid
    goal, experts = target_grid(source, options), len(network.experts.views)
    way = route(loaded.volume, goal)
    width = network.trunk.width
    return DryRun(
        input=loaded.volume.shape,
        output=goal.shape,
        output_spacing_mm=tuple(round(s, 4) for s in goal.spacing_mm),
        peak_memory_mib=predicted_mib(source, goal, options, width=width, experts=experts, near=way.near),
        files=tuple(str(path) for path in request.outputs.every()),
        warnings=(*loaded.warnings, *way.warnings()),
    )


def _plain_enhancer(args: argparse.Namespace) -> Enhancer:
    from moediff.inference.enhancer import Enhancer

    return Enhancer(args.bundle, device=args.device, dtype=args.dtype, threads=args.threads)


def _enhancer(loaded: Loaded, options: EnhanceOptions, args: argparse.Namespace) -> Enhancer:
    """The model, after self-supervised fine-tuning on the scan where --adapt wants it."""
    enhancer = _plain_enhancer(args)
    if not args.adapt:
        return enhancer
    from moediff.inference.enhancer import Enhancer
    from moediff.training.adapt import AdaptOptions, adapt

    chosen = AdaptOptions(seed=args.seed, device=args.device, threads=args.threads)
    progress = not args.quiet and sys.stderr.isatty()
    adapted = adapt([loaded], enhancer.bundle, chosen, goal=options, progress=progress)
    return Enhancer(adapted, device=args.device, dtype=args.dtype)


def _check_adaptable(loaded: Loaded, options: EnhanceOptions) -> None:
    """Refuse before any long work."""
    from moediff.core.errors import prefix_errors
    from moediff.core.extras import TRAINING_MODULES, require_modules
    from moediff.inference.grid_plan import target_grid
    from moediff.inference.route import route
    from moediff.training.self_supervised import slices_of

    require_modules(*TRAINING_MODULES, what="--adapt", extra="train")
    with prefix_errors(loaded.path or "the scan"):
        slices_of(loaded.volume.grid, options)
        route(loaded.volume, target_grid(loaded.volume.grid, options))


def _options(args: argparse.Namespace) -> EnhanceOptions:
    from moediff.inference.options import EnhanceOptions
    from moediff.io.grid_from_file import grid_from_file

    return EnhanceOptions(
        voxel_size=tuple(args.voxel_size) if args.voxel_size else None,
        like=grid_from_file(args.like) if args.like else None,
        mode=args.mode,
        mirrors=args.mirrors,
        sampler=args.sampler,
        steps=args.steps,
        samples=args.samples,
        seed=args.seed,
        even_slices=args.even_slices,
        consistency=not args.no_consistency,
        memory_mb=args.mem_mb,
    )


def _say(sidecar: Sidecar, path: Path, args: argparse.Namespace) -> None:
    if args.json:
        print(sidecar.to_json(), end="")
    if not args.quiet:
        for warning in sidecar.warnings:
            print(f"moediff: warning: {warning}", file=sys.stderr)
        if not args.json:
            print(f"{path}\n{RESEARCH_ONLY}")
    if args.verbose:
        print(json.dumps({k: v for k, v in sidecar.to_dict().items() if k != "warnings"}, indent=2), file=sys.stderr)
