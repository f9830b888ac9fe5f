"""MoEDiff-SR: mixture-of-experts-guided diffusion super-resolution of brain MRI. Research use only.

    import moediff
    result = moediff.enhance("scan.nii.gz", "scan_desc-sr.nii.gz")

Everything but `enhance` is loaded on first use, so importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moediff._version import RESEARCH_ONLY as RESEARCH_ONLY
from moediff._version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moediff.core.volume import Volume
    from moediff.inference.enhancer import Enhancer, Source
    from moediff.inference.options import EnhanceOptions
    from moediff.inference.outputs import OutputPaths
    from moediff.inference.result import Enhanced
    from moediff.io.scans import load
    from moediff.model.bundle import Bundle
    from moediff.report.figure import plot

_MODULES = {
    "Enhancer": "moediff.inference.enhancer",
    "EnhanceOptions": "moediff.inference.options",
    "Enhanced": "moediff.inference.result",
    "OutputPaths": "moediff.inference.outputs",
    "Volume": "moediff.core.volume",
    "load": "moediff.io.scans",
    "plot": "moediff.report.figure",
}
__all__ = ["EnhanceOptions", "Enhanced", "Enhancer", "OutputPaths", "Volume", "enhance", "load", "plot"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'moediff' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def enhance(
    source: Source | Sequence[Source],
    target: OutputPaths | Path | str | None = None,
    *,
    guide: Source | None = None,
    bundle: Bundle | Path | str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    **options: Any,
) -> Enhanced:
    """Enhance one scan, or several of one head to one, in one call; `Enhancer` is the reusable object behind it.

    What is written is written as `moediff enhance` does it: checked before any work, locked against other runs, whole
    or not at all, and the sidecar last.

    Args:
        source: path, nibabel image, `Volume`, or what `load` returned (which chooses a DICOM series or a 4-D volume);
            or a list of these: scans of one head and one contrast, combined in the frame of the first.
        target: where to write the result and its sidecar, or `OutputPaths` for maps, report and DICOM series too;
            None writes nothing.
        guide: a sharp scan of another contrast of the same head, which may help one scan of thick slices.
        bundle: model folder; None takes the embedded weights.
        device: "auto", "cpu", "cuda" or "cuda:N".
        overwrite: replace existing files.
        options: as in `EnhanceOptions`, e.g. voxel_size=(1.0,), mode="detail".

    Returns:
        The enhanced scan with its maps and its record, also where a target was written.

    Raises:
        MoeDiffError: see `moediff.core.errors`; each class says what kind of fault it was.
    """
    from pathlib import Path

    from moediff.core.errors import ConfigError
    from moediff.inference.enhancer import Enhancer
    from moediff.inference.options import EnhanceOptions
    from moediff.inference.outputs import OutputPaths
    from moediff.inference.run import EnhanceRequest, enhance_to

    try:
        chosen = EnhanceOptions(**options)
    except TypeError as error:
        raise ConfigError(f"{error}; see moediff.EnhanceOptions") from error
    if target is None:
        return Enhancer(bundle, device=device)(source, chosen, guide=guide)
    outputs = target if isinstance(target, OutputPaths) else OutputPaths(scan=Path(target))
    request = EnhanceRequest(source=source, options=chosen, outputs=outputs, overwrite=overwrite, guide=guide)
    return enhance_to(request, lambda _: Enhancer(bundle, device=device))
