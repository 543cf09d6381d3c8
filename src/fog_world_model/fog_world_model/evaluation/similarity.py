"""How alike two pictures are: structural similarity, and a distance closer to what the eye sees.

Neither has learned weights, so that figures can be had anywhere and never change with a download.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
_HAAR = 8
"""Side of the largest Haar filter."""


def structural_similarity(left: Tensor, right: Tensor) -> Tensor:
    """SSIM of Wang et al. 2004 (Gaussian window, 11 pixels wide, sigma 1.5), mean over channels.

    Where the window would reach beyond the picture nothing is counted, as in scikit-image.

    Args:
        left: ``[batch, channel, height, width]`` in [-1, 1]; at least 11 pixels on each side.
        right: The same.

    Returns:
        ``[batch]`` in [-1, 1]; 1 for equal pictures.
    """
    c1, c2 = 0.01**2, 0.03**2  # for values from 0 to 1; the measure is not blind to an offset
    # Variances are small differences of large numbers, which single precision rounds away.
    left, right = (left.double() + 1) / 2, (right.double() + 1) / 2
    a, b, aa, bb, ab = _blurred(
        torch.stack([left, right, left * left, right * right, left * right])
    )
    covariance = ab - a * b
    variances = (aa - a * a) + (bb - b * b)
    similarity = (2 * a * b + c1) * (2 * covariance + c2)
    similarity = similarity / ((a * a + b * b + c1) * (variances + c2))
    mean: Tensor = similarity.mean((-3, -2, -1)).float()
    return mean


def perceptual_distance(left: Tensor, right: Tensor) -> Tensor:
    """1 - HaarPSI (Reisenhofer et al. 2018, "A Haar wavelet-based perceptual similarity index").

    Compares edges at two scales, weighed by where a third, coarser one sees any, and colour. Blur
    and fading, which the squared error forgives, count. On photographs it follows human judgement
    better than SSIM does (section 4 of the paper). It knows nothing of objects: it is no LPIPS, and
    its numbers cannot be set beside LPIPS numbers.

    Other than in the authors' program nothing is counted where a filter reaches beyond the picture
    (there, the edge to black would outweigh everything), and pictures are not reduced to half their
    size first, since at 64x64 every pixel counts.

    Args:
        left: ``[batch, 3, height, width]`` RGB in [-1, 1]; at least 8 pixels on each side.
        right: The same.

    Returns:
        ``[batch]`` in [0, 1]; 0 for equal pictures.
    """
    both = torch.cat([left, right])
    red, green, blue = ((both + 1) * 127.5).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack(
        [
            0.596 * red - 0.274 * green - 0.322 * blue,
            0.211 * red - 0.523 * green + 0.312 * blue,
        ],
        1,
    )
    edges = F.conv2d(luma[:, None], _haar_filters().to(luma)).abs()
    inner = slice(_HAAR // 2 - 1, 1 - _HAAR // 2)  # where the largest filter fits
    colours = F.avg_pool2d(chroma, 2, stride=1).abs()[..., inner, inner]
    edges_left, edges_right = edges.chunk(2)
    alike_edges = _alike(edges_left[:, :4], edges_right[:, :4]).unflatten(1, (2, 2)).mean(2)
    alike_colours = _alike(*colours.chunk(2)).mean(1, keepdim=True)
    weights = torch.maximum(edges_left[:, 4:], edges_right[:, 4:])
    weights = torch.cat([weights, weights.mean(1, keepdim=True)], 1)
    alike = torch.sigmoid(_ALPHA * torch.cat([alike_edges, alike_colours], 1))
    # Two pictures without any edge have no weight anywhere; they are then compared evenly.
    weights = weights + 1e-6
    score = (alike * weights).sum((-3, -2, -1)) / weights.sum((-3, -2, -1))
    similarity = (torch.logit(score) / _ALPHA).square()
    return (1 - similarity).clamp_min(0)


_C, _ALPHA = 30.0, 4.2
"""Constants of HaarPSI, for values from 0 to 255."""


def _alike(left: Tensor, right: Tensor) -> Tensor:
    return (2 * left * right + _C) / (left.square() + right.square() + _C)


def _blurred(pictures: Tensor) -> Tensor:
    """Weighted means of ``[..., height, width]`` where the window fits."""
    height, width = pictures.shape[-2:]
    # Products with two matrices: several times as fast as convolutions of so few channels.
    return _blur(height).to(pictures) @ pictures @ _blur(width).to(pictures).T


@cache
def _blur(size: int) -> Tensor:
    """``[size - 10, size]``: each row a window of weights, one place further than the last."""
    places = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-0.5 * (places / _SIGMA) ** 2)
    weights = weights / weights.sum()
    matrix = torch.zeros(size - _WINDOW + 1, size, dtype=torch.float64)
    for row in range(len(matrix)):
        matrix[row, row : row + _WINDOW] = weights
    return matrix


@cache
def _haar_filters() -> Tensor:
    """``[filter, 1, 8, 8]``: scales 1 and 2 of both orientations, then scale 3 of both."""
    filters = torch.zeros(6, 1, _HAAR, _HAAR)
    for i, (scale, turned) in enumerate([(1, 0), (2, 0), (1, 1), (2, 1), (3, 0), (3, 1)]):
        side = 2**scale
        kernel = torch.full((side, side), 2.0**-scale)
        kernel[: side // 2] *= -1
        first = (_HAAR - side) // 2
        place = slice(first, first + side)
        filters[i, 0, place, place] = kernel.T if turned else kernel
    return filters
