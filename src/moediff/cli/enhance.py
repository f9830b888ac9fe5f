"""`moediff enhance`: super-resolve one scan."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moediff._version import RESEARCH_ONLY
from moediff.cli.options import (
    EXPERT,
    INPUT,
    OUTPUT,
    QUALITY,
    SPEED,
    Command,
    add_command,
    bundle_option,
    device_option,
    option,
    overwrite_option,
    quiet_option,
    report_size_option,
    seed_option,
    threads_option,
)
from moediff.cli.reading import TRUST_INTENSITIES, read_every, reading_options_of_several, scan_path
from moediff.cli.terminal import progress_bar
from moediff.core.memory import tune_allocator

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.inference.enhancer import Enhancer
    from moediff.inference.options import EnhanceOptions
    from moediff.inference.run import EnhanceRequest, PlannedScan
    from moediff.inference.sidecar import Sidecar
    from moediff.io.scans import LoadedScan


def _size_mm(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        if "," in text:
            raise argparse.ArgumentTypeError(f"{text!r} has commas: give spaces, as in --voxel-size 1 1 1") from None
        # most often the scan, which this option's numbers would swallow
        raise argparse.ArgumentTypeError(f"{text!r} is no number of mm: name the scan before this option") from None


def _thickness(text: str) -> float | str:
    try:
        return text if text == "header" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of mm nor the word header") from None


VOXEL_SIZES = "voxel-sizes"
PROFILE_WORDS = ("auto", VOXEL_SIZES)

OPTIONS = {
    INPUT: (
        option(
            "sources",
            type=scan_path,
            nargs="+",
            metavar="INPUT",
            help="scan: NIfTI, .mgz, .hdr/.img, folder or zip of DICOM files; several scans of one head become one",
        ),
        *reading_options_of_several(),
        option(
            "--guide",
            type=scan_path,
            metavar="SHARP",
            help="thick slices: a sharp scan of another contrast of this head, for edges that both have",
        ),
        option("--guide-series", metavar="N", help="which DICOM series is the guide, by number or UID"),
        option(
            "--guide-trust",
            choices=("sform", "qform"),
            help="of the guide: which affine to use where the two contradict",
        ),
        option(
            "--no-align",
            action="store_true",
            help="several scans, or a guide: trust their headers, do not register them",
        ),
        TRUST_INTENSITIES,
    ),
    OUTPUT: (
        option(
            "-o",
            "--output",
            type=Path,
            metavar="PATH",
            help="result (default: <stem>_desc-sr_<suffix>.nii.gz beside the input)",
        ),
        option(
            "--voxel-size",
            type=_size_mm,
            nargs="+",
            action="store",  # one size: given again, it replaces the first
            metavar="MM",
            help="voxel size of the result: one number, or three in the input's axis order (default: axes coarser than "
            "1 mm become 1 mm; a scan without an axis above 1.2 mm gets half its voxel size)",
        ),
        option("--like", type=Path, metavar="REF", help="give the result exactly this scan's grid"),
        option(
            "--uncertainty",
            type=Path,
            metavar="PATH",
            help="also write the standard deviation of every voxel (mode detail, one scan: --samples 2 or more)",
        ),
        option("--report", type=Path, metavar="HTML", help="also write a page that shows the result, offline"),
        report_size_option(),
        option("--mask", type=Path, metavar="PATH", help="also write where the network worked"),
        option("--dicom-out", type=Path, metavar="FOLDER", help="also write a new DICOM series (DICOM input only)"),
        overwrite_option(),
        option("--dry-run", action="store_true", help="print grids, memory, files and warnings, and stop"),
        option("--json", action="store_true", help="print the sidecar to standard output"),
        quiet_option(),
        option("-v", "--verbose", action="store_true", help="print timings and settings"),
    ),
    QUALITY: (
        option(
            "--mode",
            default="faithful",
            choices=("faithful", "detail"),
            help="faithful: least error; detail: a plausible sample, sharper and further from the truth",
        ),
        option(
            "--adapt", action="store_true", help="thick slices: fine-tune the weights on this scan first (1-2 minutes)"
        ),
        option(
            "--tta",
            type=int,
            default=1,
            choices=(1, 2, 4, 8),
            metavar="N",
            help="average over 2, 4 or 8 flips: a little less error, N times as long",
        ),
        option(
            "--correct-slice-intensity",
            action="store_true",
            help="remove brightness that alternates from slice to slice (interleaved acquisition)",
        ),
        option(
            "--profile",
            default="auto",
            metavar="NAME[:WIDTH]",
            help="how coarse axes were sampled: auto, voxel-sizes, gaussian, box, bicubic, truncate, hamming, ...",
        ),
    ),
    SPEED: (
        device_option(),
        threads_option(),
        option(
            "--dtype",
            default="float32",
            choices=("float32", "bfloat16"),
            help="bfloat16 is 1.6 times as fast where the processor supports it",
        ),
        option("--mem-mb", type=int, default=1600, metavar="MB", help="memory for a tile's activations"),
    ),
    EXPERT: (
        bundle_option(),
        option(
            "--samples",
            type=int,
            default=1,
            metavar="N",
            help="take the uncertainty from N samples; in mode detail the first of them is the result",
        ),
        option("--steps", type=int, default=3, metavar="N", help="of a sample, a network evaluation each (heun: two)"),
        option("--sampler", default="dpm-solver++", metavar="NAME", help="dpm-solver++, heun or euler"),
        seed_option("samples and of --adapt"),
        option(
            "--slice-thickness",
            type=_thickness,
            metavar="MM",
            help="thickness of thick slices, or header for what the file says (default: their distance)",
        ),
        option("--no-data-consistency", action="store_true", help="do not correct the result towards the measurement"),
        option("--experts", type=Path, metavar="PATH", help="also write the weight of each expert, 4-D"),
        option(
            "--single-experts",
            type=Path,
            metavar="PATH",
            help="also write each expert's result alone, 4-D (slower)",
        ),
        option(
            "--differences",
            type=Path,
            metavar="PATH",
            help="also write how each expert alone differs from the result and from the input, 4-D (slower)",
        ),
    ),
}
EXAMPLES = (
    "moediff enhance sub-01_T2w.nii.gz                      # result beside the input, thick axes become 1 mm",
    "moediff enhance scan.nii.gz -o out.nii.gz --report look.html",
    "moediff enhance scan.nii.gz --uncertainty sd.nii.gz    # also how far each voxel may be off",
    "moediff enhance flair.nii.gz --like t1w.nii.gz         # on the grid of another scan",
    "moediff enhance flair_5mm.nii.gz --adapt               # better on thick slices, minutes instead of seconds",
    "moediff enhance flair_5mm.nii.gz --guide t1w_1mm.nii.gz   # sharper where both have the same edges",
    "moediff enhance axial.nii.gz sagittal.nii.gz coronal.nii.gz -o out.nii.gz   # three scans of one head become one",
    "moediff enhance dicom_folder/ --series 5 -o out.nii.gz",
    "moediff enhance dicom_folder/ --series 3,5,7 -o out.nii.gz   # three series of one study become one",
)


def add(commands: Commands) -> None:
    """Declare the command."""
    add_command(
        commands,
        Command(
            name="enhance",
            summary="super-resolve one scan, or several of one head to one",
            description=f"Super-resolve one scan, or combine several scans of one head. {RESEARCH_ONLY}",
            options=OPTIONS,
            examples=EXAMPLES,
            call=enhance_command,
        ),
    )


def enhance_command(args: argparse.Namespace) -> int:
    """Enhance one scan, or several to one, and write it."""
    from moediff.inference.dry_run import dry_run
    from moediff.inference.outputs import OutputPaths
    from moediff.inference.run import EnhanceRequest, enhance_to
    from moediff.io.naming import default_output

    tune_allocator()
    options = replace(enhance_options(args), memory_mb=args.mem_mb)
    loaded = _read_all(args)
    outputs = OutputPaths(
        scan=args.output or default_output(args.sources[0], loaded[0].stem),
        uncertainty=args.uncertainty,
        experts=args.experts,
        mask=args.mask,
        single_experts=args.single_experts,
        differences=args.differences,
        report=args.report,
        dicom=args.dicom_out,
    )
    request = EnhanceRequest(
        source=loaded,
        options=options,
        outputs=outputs,
        overwrite=args.overwrite,
        report_size=args.report_size,
        protected=() if args.like is None else (args.like,),
        guide=_guide(args),
    )
    if args.adapt:
        _check_adaptable(request)
    if args.dry_run:
        print(json.dumps(asdict(dry_run(request, _plain_enhancer(args).bundle.config)), indent=2))
        return 0
    with progress_bar(quiet=args.quiet or not sys.stderr.isatty()) as report:
        result = enhance_to(request, lambda planned: _enhancer(planned, args), report)
    _say(result.sidecar, outputs.scan, args)
    return 0


def _read_all(args: argparse.Namespace) -> list[LoadedScan]:
    """Every input; of a DICOM folder, every series that --series names."""
    from moediff.core.errors import ConfigError

    scans = read_every(args.sources, args)
    if args.adapt and len(scans) > 1:
        raise ConfigError("--adapt fine-tunes on one scan, several were given: leave it out, or name one scan")
    return scans


def _guide(args: argparse.Namespace) -> LoadedScan | None:
    from moediff.core.errors import ConfigError
    from moediff.inference.guided import load_guide

    if args.guide is None:
        if args.guide_series is not None:
            raise ConfigError("--guide-series chooses a series of the guide: name its folder by --guide")
        if args.guide_trust is not None:
            raise ConfigError("--guide-trust chooses an affine of the guide: name its file by --guide")
        return None
    return load_guide(args.guide, trust=args.guide_trust, series=args.guide_series)


def _plain_enhancer(args: argparse.Namespace) -> Enhancer:
    from moediff.inference.enhancer import Enhancer

    return Enhancer(args.bundle, device=args.device, dtype=args.dtype, threads=args.threads)


def _enhancer(planned: PlannedScan, args: argparse.Namespace) -> Enhancer:
    """The model, after self-supervised fine-tuning on the scan where --adapt wants it."""
    enhancer = _plain_enhancer(args)
    if not args.quiet and enhancer.model.device.type == "cpu":
        _say_cost(planned, enhancer)
    if not args.adapt:
        return enhancer
    from moediff.inference.enhancer import Enhancer
    from moediff.training.adapt import AdaptOptions, adapt

    chosen = AdaptOptions(seed=args.seed, device=args.device, threads=args.threads)
    progress = not args.quiet and sys.stderr.isatty()
    adapted = adapt([planned.scan], enhancer.bundle, chosen, plans=[planned.plan], progress=progress)
    return Enhancer(adapted, device=args.device, dtype=args.dtype)


def _say_cost(planned: PlannedScan, enhancer: Enhancer) -> None:
    """Say what a result finer than 1 mm costs, before the work begins."""
    import torch

    from moediff.inference.dry_run import guide_grid, plans_of
    from moediff.inference.memory_estimate import cost_sentence

    network, threads = enhancer.bundle.config.denoiser, torch.get_num_threads()
    if sentence := cost_sentence(plans_of(planned), planned.options, network, threads, guide=guide_grid(planned)):
        print(f"moediff: {sentence}", file=sys.stderr)


def _check_adaptable(request: EnhanceRequest) -> None:
    """Refuse before any long work."""
    from moediff.core.errors import prefix_errors
    from moediff.training.self_supervised import slices_of

    with prefix_errors(request.path or "the scan"):
        slices_of(request.planned.plan)


def enhance_options(args: argparse.Namespace) -> EnhanceOptions:
    """What the options say, but for memory; also of the commands that take many scans."""
    from moediff.acquisition.point_spread import parse_sampling
    from moediff.inference.options import EnhanceOptions
    from moediff.io.scans import grid_from_file

    return EnhanceOptions(
        voxel_size=tuple(args.voxel_size) if args.voxel_size else None,
        like=grid_from_file(args.like) if args.like else None,
        mode=args.mode,
        tta=args.tta,
        sampler=args.sampler,
        steps=args.steps,
        samples=args.samples,
        seed=args.seed,
        correct_slice_intensity=args.correct_slice_intensity,
        profile=None if args.profile in PROFILE_WORDS else tuple(map(parse_sampling, args.profile.split(","))),
        estimate_sampling=args.profile != VOXEL_SIZES,
        data_consistency=not args.no_data_consistency,
        trust_intensities=args.trust_intensities,
        align=not getattr(args, "no_align", False),  # cohorts have single scans
        slice_thickness=args.slice_thickness,
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
