"""MoEDiff-SR: mixture-of-experts-guided diffusion super-resolution of brain MRI. Research use only.

    import moediff
    result = moediff.enhance("scan.nii.gz", "scan_desc-sr.nii.gz")

`Enhancer`, `EnhanceOptions`, `Volume` and `load` are loaded on first use, so importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moediff._version import RESEARCH_ONLY as RESEARCH_ONLY
from moediff._version import __version__ as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from moediff.core.volume import Volume
    from moediff.inference.enhancer import Enhancer, Source
    from moediff.inference.options import Enhanced, EnhanceOptions
    from moediff.io.scans import load
    from moediff.report.plot import plot

_HOMES = {
    "Enhancer": "moediff.inference.enhancer",
    "EnhanceOptions": "moediff.inference.options",
    "Enhanced": "moediff.inference.options",
    "Volume": "moediff.core.volume",
    "load": "moediff.io.scans",
    "plot": "moediff.report.plot",
}
__all__ = ["EnhanceOptions", "Enhanced", "Enhancer", "Volume", "enhance", "load", "plot"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moediff' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def enhance(
    source: Source,
    target: Path | str | None = None,
    *,
    bundle: Path | str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    **options: Any,
) -> Enhanced:
    """Enhance one scan in one call; `Enhancer` is the reusable object behind it.

    Args:
        source: path, nibabel image, `Volume`, or what `load` returned (which chooses a DICOM series or a 4-D volume).
        target: where to write the result and its sidecar; None writes nothing.
        bundle: model folder; None takes the embedded weights.
        device: "auto", "cpu", "cuda" or "cuda:N".
        overwrite: replace an existing target.
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
    from moediff.inference.outputs import OutputPaths, check_outputs, write

    try:
        chosen = EnhanceOptions(**options)
    except TypeError as error:
        raise ConfigError(f"{error}; see moediff.EnhanceOptions") from error
    paths = None if target is None else OutputPaths(scan=Path(target))
    if paths is not None:
        read = source.get_filename() if hasattr(source, "get_filename") else getattr(source, "path", source)
        check_outputs(paths, Path(read) if isinstance(read, Path | str) else Path(), overwrite=overwrite)
    result = Enhancer(bundle, device=device)(source, chosen)
    if paths is not None:
        write(result, paths, overwrite=overwrite)
    return result
