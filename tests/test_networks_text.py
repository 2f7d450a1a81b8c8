"""Networks of sentences: what bytes become, and what they are deaf to."""

from __future__ import annotations

import pytest
import torch

from ganpipe.errors import InputError
from ganpipe.networks import dcgan
from ganpipe.networks.text import ByteEncoder, TextDiscriminator, TextGenerator, to_bytes

TEXTS = ["a bold seven leaning left", "тонкая девятка", "太い七", "شعر 🦉"]


def test_bytes_are_utf8_of_any_script() -> None:
    rows_NL = to_bytes(TEXTS, 40)
    assert rows_NL.dtype == torch.uint8 and rows_NL.shape == (4, 40)
    assert [bytes(row.tolist()).rstrip(b"\0").decode() for row in rows_NL] == TEXTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("seven\0", "character of value 0"),
        ("\ud800", "no Unicode"),
        ("ж" * 21, r"42 bytes of UTF-8, and this generator reads 40 \(gan\.max_bytes\)"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_bytes(["fine", text], 40)
    assert to_bytes(["ж" * 20], 40).all()


def test_what_follows_a_text_changes_nothing_and_its_order_does() -> None:
    torch.manual_seed(0)
    encoder = ByteEncoder(16, 8, 3)
    short, long = encoder(to_bytes(TEXTS, 32)), encoder(to_bytes(TEXTS, 100))
    torch.testing.assert_close(short, long)
    alone = torch.cat([encoder(to_bytes([text], 32)) for text in TEXTS])
    torch.testing.assert_close(short, alone)
    turned = encoder(to_bytes(["left leaning seven bold a"], 32))
    assert (turned - short[0]).abs().max() > 1e-3
    assert encoder(torch.zeros(1, 32, dtype=torch.uint8)).isfinite().all()


def test_generator_and_discriminator_listen_to_the_text() -> None:
    torch.manual_seed(0)
    generator = TextGenerator(dcgan.Generator(8 + 16, 4, 1, 16), ByteEncoder(16, 8, 2), TEXTS).eval()
    discriminator = TextDiscriminator(dcgan.Discriminator(1, 4, 16, "none"), ByteEncoder(16, 8, 2), 16)
    first, second = to_bytes(TEXTS, 32), to_bytes(TEXTS[::-1], 32)
    latents_NZ = torch.randn(4, 8)
    images_NCHW = generator(latents_NZ, first)
    assert images_NCHW.shape == (4, 1, 16, 16)
    assert not torch.equal(images_NCHW, generator(latents_NZ, second))
    alone = [discriminator(images_NCHW, captions) for captions in (first, second)]
    both = discriminator(images_NCHW, first, second)
    for ours, theirs in zip(both, alone, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert both[0].shape == (4,) and not torch.equal(*both)


def test_projection_is_the_papers() -> None:
    """psi(phi(x)) + phi(x)^T V e(t), row by row."""
    torch.manual_seed(0)
    plain, encoder = dcgan.Discriminator(1, 4, 8, "none"), ByteEncoder(16, 8, 2)
    discriminator, captions_NL = TextDiscriminator(plain, encoder, 16), to_bytes(TEXTS, 32)
    images_NCHW = torch.randn(4, 1, 8, 8)
    told_NE, features_NF = encoder(captions_NL), plain.features(images_NCHW).flatten(1)
    for row, logit in enumerate(discriminator(images_NCHW, captions_NL)):
        product = features_NF[row] @ (discriminator.projection.weight @ told_NE[row])
        torch.testing.assert_close(logit, plain(images_NCHW[row : row + 1])[0] + product)
