"""What makes networks conditional on a class, around any generator of latents and any discriminator in two parts.

A discriminator in two parts has `features` (rows -> phi), `logits` (phi -> psi(phi)), and `feature_count`, the numbers
that phi has for each row.

Legend: N rows, Z latent size, K classes, S the shape of one row, F features of one row, flattened.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import dcgan, mlp, resnet

TwoParts = mlp.Discriminator | dcgan.Discriminator | resnet.Discriminator


class LabelledGenerator(nn.Module):
    """latents (N, Z), classes int64 (N,) -> rows: the class, as a learned vector, follows the latent
    (arXiv:1411.1784, Sec. 3.2)."""

    def __init__(self, generator: nn.Module, classes: int, label_dim: int, deviation: float = 1.0):
        """`generator` takes latents of `label_dim` more numbers, which begin normal with the given deviation."""
        super().__init__()
        self.generator = generator
        self.embedding = nn.Embedding(classes, label_dim)
        nn.init.normal_(self.embedding.weight, std=deviation)

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.embedding.num_embeddings

    def forward(self, latents_NZ: Tensor, label_N: Tensor) -> Tensor:
        return self.generator(torch.cat([latents_NZ, self.embedding(label_N)], dim=1))


class Projection(nn.Module):
    """features (N, F), classes int64 (N,) -> y^T V phi(x), (N,) (arXiv:1802.05637, Fig. 1d).

    V is a linear layer, so that spectral normalisation finds it.
    """

    def __init__(self, classes: int, feature_count: int):
        super().__init__()
        self.embedding = nn.Linear(classes, feature_count, bias=False)
        nn.init.normal_(self.embedding.weight, std=feature_count**-0.5)

    def forward(self, features_NF: Tensor, label_N: Tensor) -> Tensor:
        one_hot_NK = F.one_hot(label_N, self.embedding.in_features).to(features_NF.dtype)
        return (self.embedding(one_hot_NK) * features_NF).sum(1)


class ProjectionDiscriminator(nn.Module):
    """rows (N, *S), classes int64 (N,) -> logits (N,): psi(phi(x)) + y^T V phi(x) (arXiv:1802.05637)."""

    def __init__(self, discriminator: TwoParts, classes: int):
        super().__init__()
        self.discriminator = discriminator
        self.projection = Projection(classes, discriminator.feature_count)

    def forward(self, rows_NS: Tensor, label_N: Tensor) -> Tensor:
        features = self.discriminator.features(rows_NS)
        return self.discriminator.logits(features) + self.projection(features.flatten(1), label_N)


class ConcatDiscriminator(nn.Module):
    """images (N, C, H, W), classes int64 (N,) -> logits (N,): the class, as a learned plane of pixels, is one channel
    more (arXiv:1411.1784, Sec. 3.2)."""

    def __init__(self, discriminator: nn.Module, classes: int, resolution: int):
        """`discriminator` takes C + 1 channels."""
        super().__init__()
        self.discriminator = discriminator
        self.resolution = resolution
        self.planes = nn.Embedding(classes, resolution**2)

    def forward(self, images_NCHW: Tensor, label_N: Tensor) -> Tensor:
        planes_N1HW = self.planes(label_N).unflatten(1, (1, self.resolution, self.resolution))
        return self.discriminator(torch.cat([images_NCHW, planes_N1HW], dim=1))


class AuxiliaryDiscriminator(nn.Module):
    """rows (N, *S) -> logits (N,) of being real, and (N, K) of the classes (AC-GAN, arXiv:1610.09585)."""

    def __init__(self, discriminator: TwoParts, classes: int):
        super().__init__()
        self.discriminator = discriminator
        self.classifier = nn.Linear(discriminator.feature_count, classes)

    def forward(self, rows_NS: Tensor) -> tuple[Tensor, Tensor]:
        features = self.discriminator.features(rows_NS)
        return self.discriminator.logits(features), self.classifier(features.flatten(1))
