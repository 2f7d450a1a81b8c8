"""What makes networks conditional on a sentence: an encoder in each of them, of the bytes of its UTF-8.

Bytes know every script, and take no vocabulary along. Legend: N rows, L bytes, Z latent size, E size of a sentence's
vector, F features of one image, flattened.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from . import dcgan

TEXT_DEVIATION = 0.1
"""What a sentence's vector is multiplied by beside latents of deviation 1. As it comes it takes over, and samples of
one sentence are nearly alike."""
KERNEL = 5
"""Bytes that a convolution looks at."""


def to_bytes(texts: Sequence[str], max_bytes: int) -> Tensor:
    """UTF-8 of each text, filled up with 0: uint8 (N, max_bytes).

    Raises InputError for a text that is too long, says nothing, or holds a zero.
    """
    rows_NL = torch.zeros(len(texts), max_bytes, dtype=torch.uint8)
    for row, text in zip(rows_NL, texts, strict=True):
        data = check_text(text, max_bytes)
        row[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return rows_NL


def check_text(text: str, max_bytes: int) -> bytes:
    """UTF-8 of the text. Raises InputError as `to_bytes` does."""
    shown = shortened(text)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"text {shown!r} is no Unicode: {error.reason}") from error
    if not text.strip():
        raise InputError("the text is empty; say what is to be seen")
    if b"\0" in data:
        raise InputError(f"text {shown!r} holds a character of value 0; leave it out")
    if len(data) > max_bytes:
        raise InputError(
            f"text {shown!r} has {len(data)} bytes of UTF-8, and this generator reads {max_bytes} (gan.max_bytes); "
            "say it in fewer words"
        )
    return data


def shortened(text: str) -> str:
    """As much of it as a message shows."""
    return text if len(text) <= 40 else f"{text[:37]}..."


class ByteEncoder(nn.Module):
    """uint8 (N, L), filled up with 0 -> (N, E).

    Residual convolutions over embedded bytes, then mean and maximum over those that there are: what follows a text's
    end changes nothing.
    """

    def __init__(self, text_dim: int, width: int, layers: int):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2) for _ in range(layers))
        self.out = nn.Linear(2 * width, text_dim)

    def forward(self, caption_NL: Tensor) -> Tensor:
        there_N1L = (caption_NL != 0).unsqueeze(1)
        hidden_NWL = self.embedding(caption_NL.long()).transpose(1, 2) * there_N1L
        for convolution in self.convolutions:
            hidden_NWL = (hidden_NWL + F.leaky_relu(convolution(hidden_NWL), 0.2)) * there_N1L
        mean_NW = hidden_NWL.sum(2) / there_N1L.sum(2).clamp(min=1)
        greatest_NW = hidden_NWL.masked_fill(~there_N1L, -torch.inf).amax(2).nan_to_num(neginf=0.0)
        return self.out(torch.cat([mean_NW, greatest_NW], dim=1))


class TextGenerator(nn.Module):
    """latents (N, Z), captions uint8 (N, L) -> images in [-1, 1]: the sentence's vector follows the latent
    (arXiv:1605.05396, Sec. 4.1)."""

    def __init__(self, generator: nn.Module, encoder: nn.Module, examples: Sequence[str] = ()):
        """`generator` takes latents that are longer by the sentence's vector; `examples` are what it says unasked."""
        super().__init__()
        self.generator = generator
        self.encoder = encoder
        self.examples = tuple(examples)

    def forward(self, latents_NZ: Tensor, caption_NL: Tensor) -> Tensor:
        told_NE = TEXT_DEVIATION * self.encoder(caption_NL)
        return self.generator(torch.cat([latents_NZ, told_NE.to(latents_NZ.dtype)], dim=1))


class TextDiscriminator(nn.Module):
    """images, captions uint8 (N, L) -> logits (N,): psi(phi(x)) + phi(x)^T V e(t) (arXiv:1802.05637, Fig. 1d).

    With several captions for each image: logits (N,) of each, from one look at the images.
    """

    def __init__(self, discriminator: dcgan.Discriminator, encoder: nn.Module, text_dim: int):
        super().__init__()
        self.discriminator = discriminator
        self.encoder = encoder
        self.projection = nn.Linear(text_dim, discriminator.feature_count, bias=False)
        nn.init.normal_(self.projection.weight, std=(text_dim * discriminator.feature_count) ** -0.5)

    def forward(self, images_NCHW: Tensor, *captions_NL: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.discriminator.features(images_NCHW)
        plain_N, features_NF = self.discriminator.logits(features), features.flatten(1)
        told_NE = self.encoder(torch.cat(captions_NL)).chunk(len(captions_NL))
        logits = tuple(plain_N + (self.projection(text_NE) * features_NF).sum(1) for text_NE in told_NE)
        return logits if len(logits) > 1 else logits[0]
