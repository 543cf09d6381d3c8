"""Likeness of pictures against scikit-image and the program of HaarPSI's authors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from fog_world_model.data.windows import to_float_image
from fog_world_model.evaluation.similarity import perceptual_distance, structural_similarity


def _waves() -> npt.NDArray[np.uint8]:
    y, x, c = np.mgrid[0:32, 0:40, 0:3]
    waves = 127.5 + 60 * np.sin(0.5 * x + c) + 50 * np.cos(0.3 * y * (c + 1))
    return np.round(waves).clip(0, 255).astype(np.uint8)


def _changed() -> dict[str, npt.NDArray[np.uint8]]:
    waves = _waves()
    square = waves.copy()
    square[8:20, 10:24] = (200, 40, 30)
    blurred = sum(np.roll(waves, (i, j), (0, 1)).astype(float) for i in (0, 1) for j in (0, 1)) / 4
    return {
        "square": square,
        "shift": np.roll(waves, 2, 1),
        "dim": (waves // 2 + 20).astype(np.uint8),
        "blur": np.round(blurred).astype(np.uint8),
    }


def _tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    return to_float_image(torch.from_numpy(image))[None]


# skimage 0.26: structural_similarity(channel_axis=2, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False, data_range=255).
@pytest.mark.parametrize(
    ("change", "expected"),
    [("square", 0.675585), ("shift", 0.691821), ("dim", 0.747149), ("blur", 0.945742)],
)
def test_ssim_is_that_of_scikit_image(change: str, expected: float) -> None:
    found = structural_similarity(_tensor(_waves()), _tensor(_changed()[change]))
    assert float(found) == pytest.approx(expected, abs=2e-6)


# haarPsi.py of its authors (github.com/rgcda/haarpsi), preprocess_with_subsampling=False, its maps
# of similarities and weights cut to [3:-4, 3:-4], where the 8x8 filter fits, before the last sum.
@pytest.mark.parametrize(
    ("change", "expected"),
    [("square", 0.449157), ("shift", 0.407488), ("dim", 0.671248), ("blur", 0.779217)],
)
def test_the_distance_is_that_of_its_authors(change: str, expected: float) -> None:
    found = perceptual_distance(_tensor(_waves()), _tensor(_changed()[change]))
    assert 1 - float(found) == pytest.approx(expected, abs=1e-5)


def test_each_picture_of_a_batch_is_judged_by_itself() -> None:
    waves, changed = _tensor(_waves()), _changed()
    batch = torch.cat([_tensor(changed["blur"]), waves, _tensor(changed["dim"])])
    real = waves.expand(3, -1, -1, -1)
    for measure, same in ((structural_similarity, 1.0), (perceptual_distance, 0.0)):
        found = measure(batch, real)
        assert float(found[1]) == pytest.approx(same, abs=1e-5)
        assert float(found[2]) == pytest.approx(float(measure(batch[2:], waves)), abs=1e-6)
        both = measure(real, batch)
        assert torch.allclose(found, both, atol=1e-6), "no side is the reference"


def test_pictures_without_any_edge() -> None:
    """Equal ones are equal, and a number comes out for different ones."""
    grey = torch.zeros(1, 3, 16, 16)
    assert float(perceptual_distance(grey, grey)) == 0.0
    assert float(structural_similarity(grey, grey)) == pytest.approx(1.0)
    # (2 a b + c1) / (a^2 + b^2 + c1) with a = 0.5, b = 0.75; there is no variance
    expected = (2 * 0.5 * 0.75 + 1e-4) / (0.5**2 + 0.75**2 + 1e-4)
    assert float(structural_similarity(grey, grey + 0.5)) == pytest.approx(expected, abs=1e-4)
    assert torch.isfinite(perceptual_distance(grey - 1, grey + 1)).all()
