"""The baseline of `train_step.py`: HW06's DCGAN the way a tutorial writes it, in plain PyTorch.

fp32, NCHW, Adam as it comes, two `.item()` a step for the log. Nothing here uses ganpipe.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def up(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inner, outer, 5, 2, 2, output_padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()
    )


def down(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 4, 2, 1), nn.BatchNorm2d(outer), nn.LeakyReLU(0.2))


def networks() -> tuple[nn.Module, nn.Module]:
    generator = nn.Sequential(
        nn.Linear(100, 512 * 16, bias=False),
        nn.BatchNorm1d(512 * 16),
        nn.ReLU(),
        nn.Unflatten(1, (512, 4, 4)),
        up(512, 256),
        up(256, 128),
        up(128, 64),
        nn.ConvTranspose2d(64, 3, 5, 2, 2, output_padding=1, bias=False),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(3, 64, 4, 2, 1),
        nn.LeakyReLU(0.2),
        down(64, 128),
        down(128, 256),
        down(256, 512),
        nn.Conv2d(512, 1, 4),
        nn.Flatten(0),
    )
    return generator, discriminator


def make_step(images: torch.Tensor, batch: int) -> Callable[[], tuple[float, float]]:
    """One training step on random rows of uint8 images (N, 3, 64, 64); returns its two losses."""
    generator, discriminator = networks()
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    loss = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(batch), torch.zeros(batch)

    def step() -> tuple[float, float]:
        real = images[torch.randint(len(images), (batch,))].float() / 127.5 - 1
        fake = generator(torch.randn(batch, 100))
        d_loss = loss(discriminator(real), ones) + loss(discriminator(fake.detach()), zeros)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = loss(discriminator(generator(torch.randn(batch, 100))), ones)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        return d_loss.item(), g_loss.item()

    return step
