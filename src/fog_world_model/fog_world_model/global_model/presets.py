"""Named sizes of the global model."""

from __future__ import annotations

from fog_world_model.global_model.denoiser import DenoiserConfig
from fog_world_model.global_model.outcome import OutcomeConfig
from fog_world_model.global_model.sampler import SamplerConfig

PRESETS: dict[str, tuple[DenoiserConfig, SamplerConfig, OutcomeConfig]] = {
    "tiny": (
        DenoiserConfig(patch=4, channels=(16, 32), embedding=32),
        SamplerConfig(steps=2),
        OutcomeConfig(channels=16, hidden=32),
    ),
    "small": (
        # Large patches make it cheap, and go with predicting the image itself. One denoising step
        # gives the mean of the next frame: after minutes of training, more steps add noise and no
        # sharpness (measured: 15.3, 15.1 and 15.0 dB at horizon 8 with 1, 2 and 3 steps).
        DenoiserConfig(
            patch=4,
            channels=(48, 96, 96),
            predict_sample=True,
            sigma_offset=0.0,
            noise_log_mean=1.0,  # trained where it samples: at large noise
            noise_log_std=0.8,
        ),
        SamplerConfig(steps=1, sigma_max=20.0),
        OutcomeConfig(),
    ),
    "medium": (
        # An hour or two of two CPU cores: patches small enough for thin outlines and exact places.
        # After an hour, one denoising step still gives the nearest frames, but they are means over
        # what might be, in which a block that is pushed dissolves. A second step at little noise
        # settles on one of them (measured: of the blocks that are there, 38 % instead of 44 % are
        # lost after 16 steps, at 30.0 dB either way), if such noise was trained on.
        DenoiserConfig(
            context_frames=4,
            patch=2,
            channels=(64, 96, 128),
            predict_sample=True,
            sigma_offset=0.0,
            noise_log_mean=0.3,
            noise_log_std=1.3,
        ),
        SamplerConfig(steps=2, sigma_max=20.0, sigma_min=0.5),
        OutcomeConfig(),
    ),
    "diamond": (
        # The depth, widths and attention of DIAMOND's network (4,406,851 parameters with 18
        # discrete actions). Its blocks have two conditioned norms where diffusers' have one; the
        # wider embedding, which costs nothing per pixel, makes up for the difference in size.
        DenoiserConfig(
            context_frames=4,
            patch=1,
            channels=(64, 64, 64, 64),
            layers=2,
            embedding=512,
            time_embedding=512,
            attention=True,
            context_noise=0.1,
        ),
        SamplerConfig(steps=3),
        OutcomeConfig(channels=64, hidden=512),
    ),
    "large": (
        # What a camera on the robot has seen does not stay in view: 16 frames instead of 4.
        DenoiserConfig(
            context_frames=16,
            patch=2,
            channels=(96, 128, 192, 256),
            layers=2,
            embedding=512,
            time_embedding=1024,
            attention=True,
            context_noise=0.1,
        ),
        SamplerConfig(steps=3),
        OutcomeConfig(channels=64, hidden=512),
    ),
}
"""Denoiser, sampler and outcome head: ``tiny`` for tests, ``small`` for minutes and ``medium`` for
hours of two CPU cores, ``diamond`` for a GPU, ``large`` for one with more data and a camera that
moves (about 30 M parameters)."""
