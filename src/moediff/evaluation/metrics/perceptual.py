"""LPIPS and DISTS, for users who bring the networks' weights: none are shipped, and none are fetched.

A safetensors file holds the 13 convolutions of VGG-16 (Simonyan & Zisserman 2015) by torchvision's names
(`features.0.weight`, `features.0.bias`, ...) and with them `lpips.0` to `lpips.4` (a weight per channel of each stage;
Zhang 2018, version 0.1) or `dists.alpha` and `dists.beta` (a weight per channel of the picture and each stage; Ding
2020) or both. docs/metrics.md shows how to make it.

Axes: X Y Z voxels, N slices, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.errors import DataError, InputMissing

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # of VGG-16, torchvision's numbers
SLICES = 16  # axial ones, evenly spaced through the mask; all of them would take minutes
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS' colours, for -1..1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for 0..1
TINY = 1e-6  # c1, c2; Ding 2020
LEAST_SIDE = 32  # pixels: VGG-16 halves a slice four times


@dataclass(frozen=True)
class PerceptualWeights:
    """Weights of a file; `lpips` and `dists` are true where that metric can be computed."""

    tensors: Mapping[str, Tensor]

    @property
    def lpips(self) -> bool:
        """Whether every stage has its weights."""
        return all(f"lpips.{stage}" in self.tensors for stage in range(len(STAGES)))

    @property
    def dists(self) -> bool:
        """Whether both kinds of weights are there."""
        return {"dists.alpha", "dists.beta"} <= set(self.tensors)


def load_perceptual(path: Path) -> PerceptualWeights:
    """Read and check a file of weights.

    Raises:
        InputMissing: no such file.
        DataError: not safetensors, a convolution is missing or does not fit, or weights of neither metric.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputMissing(f"{path}: there is no such file of weights: check the name")
    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a safetensors file ({error}); docs/metrics.md shows how to make one") from error
    weights = PerceptualWeights(tensors)
    channels, seen = 3, [3]
    for stage in STAGES:
        for number in stage:
            conv = tensors.get(f"features.{number}.weight", torch.empty(0))
            bias = tensors.get(f"features.{number}.bias", torch.empty(0))
            if conv.ndim != 4 or conv.shape[1:] != (channels, 3, 3) or bias.shape != conv.shape[:1]:
                raise DataError(
                    f"{path}: features.{number} is missing or not a 3x3 convolution of {channels} channels;"
                    " expected those of VGG-16"
                )
            channels = conv.shape[0]
        seen.append(channels)
    _check_heads(path, weights, seen)
    return weights


def _check_heads(path: Path, weights: PerceptualWeights, channels: list[int]) -> None:
    if not (weights.lpips or weights.dists):
        raise DataError(f"{path}: neither lpips.0 ... lpips.4 nor dists.alpha and dists.beta are in it")
    wanted = {f"lpips.{i}": n for i, n in enumerate(channels[1:])} if weights.lpips else {}
    wanted |= {name: sum(channels) for name in ("dists.alpha", "dists.beta")} if weights.dists else {}
    for name, count in wanted.items():
        if weights.tensors[name].numel() != count:
            raise DataError(f"{path}: {name} holds {weights.tensors[name].numel()} weights; expected {count}")


def perceptual(
    pred_XYZ: Tensor,
    truth_XYZ: Tensor,
    mask_XYZ: Tensor,
    data_range: float,
    weights: PerceptualWeights,
    *,
    axial: int = 2,
) -> dict[str, float]:
    """LPIPS and DISTS, as far as there are weights: 0 for equal scans, means over axial slices.

    Intensities are divided by data_range and cut off at 0 and 1, and stand for all three colours.

    Args:
        axial: the voxel axis that slices are counted along, foot to head.

    Raises:
        DataError: slices are smaller than 32x32 voxels.
    """
    pred, truth, mask = (volume.movedim(axial, -1) for volume in (pred_XYZ, truth_XYZ, mask_XYZ))
    if min(truth.shape[:2]) < LEAST_SIDE:
        size = "x".join(str(n) for n in truth.shape[:2])
        raise DataError(f"slices have {size} voxels; LPIPS and DISTS need {LEAST_SIDE}x{LEAST_SIDE}")
    where = mask.any(0).any(0).nonzero()[:, 0]
    chosen = where[torch.linspace(0, len(where) - 1, min(SLICES, len(where))).round().long()]
    values: dict[str, list[float]] = {}
    for z in chosen.tolist():
        pair = torch.stack([pred[..., z], truth[..., z]])[:, None].float() / data_range
        pair = pair.clamp(0, 1).expand(-1, 3, -1, -1)
        if weights.lpips:
            values.setdefault("lpips", []).append(_lpips(pair, weights.tensors))
        if weights.dists:
            values.setdefault("dists", []).append(_dists(pair, weights.tensors))
    return {name: sum(each) / len(each) for name, each in values.items()}


def _lpips(pair_NCHW: Tensor, tensors: Mapping[str, Tensor]) -> float:
    """Zhang 2018, equation 1."""
    scaled = (2 * pair_NCHW - 1 - _colour(SHIFT)) / _colour(SCALE)
    total = 0.0
    for stage, h in enumerate(_stages(scaled, tensors, soft=False)):
        unit = h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10)
        gap_CHW = (unit[0] - unit[1]).square()
        total += float((gap_CHW.mean((1, 2)) * tensors[f"lpips.{stage}"].flatten()).sum())
    return total


def _dists(pair_NCHW: Tensor, tensors: Mapping[str, Tensor]) -> float:
    """Ding 2020, equation 7."""
    maps = [pair_NCHW, *_stages((pair_NCHW - _colour(MEAN)) / _colour(STD), tensors, soft=True)]
    texture, structure = [], []
    for x, y in maps:
        mean_x, mean_y = x.mean((1, 2)), y.mean((1, 2))
        spread = (x - mean_x[:, None, None]).square().mean((1, 2)) + (y - mean_y[:, None, None]).square().mean((1, 2))
        shared = (x * y).mean((1, 2)) - mean_x * mean_y
        texture.append((2 * mean_x * mean_y + TINY) / (mean_x.square() + mean_y.square() + TINY))
        structure.append((2 * shared + TINY) / (spread + TINY))
    alpha, beta = tensors["dists.alpha"].flatten(), tensors["dists.beta"].flatten()
    alike = alpha @ torch.cat(texture) + beta @ torch.cat(structure)
    return 1 - float(alike / (alpha.sum() + beta.sum()))


def _stages(h: Tensor, tensors: Mapping[str, Tensor], *, soft: bool) -> Iterator[Tensor]:
    """Features at the end of every stage; `soft` pools by DISTS' weighted root mean square instead of the maximum."""
    for index, stage in enumerate(STAGES):
        if index:
            h = _pooled(h) if soft else F.max_pool2d(h, 2)
        for number in stage:
            h = F.relu(F.conv2d(h, tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"], padding=1))
        yield h


def _pooled(h: Tensor) -> Tensor:
    """L2 pooling with a Hann window; Ding 2020, equation 2."""
    tap = torch.tensor([0.25, 0.5, 0.25])
    window = torch.outer(tap, tap).expand(h.shape[1], 1, 3, 3)
    return (F.conv2d(h.square(), window, stride=2, padding=1, groups=h.shape[1]) + 1e-12).sqrt()


def _colour(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values)[:, None, None]
