"""StyleGAN2's networks a second time, slow and obvious, in float64 from a state dict; each image has its weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Mapping[str, Tensor]


def double(module: nn.Module) -> dict[str, Tensor]:
    """Its state in float64."""
    return {name: tensor.detach().double() for name, tensor in module.state_dict().items()}


def part(state: State, name: str) -> State:
    """What a submodule holds."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def count(state: State) -> int:
    """Members of a list of modules."""
    return len({key.split(".")[0] for key in state})


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def unit(rows: Tensor) -> Tensor:
    """Each row over the root of its mean square."""
    return torch.stack([row / math.sqrt((row**2).mean() + 1e-8) for row in rows])


def linear(x: Tensor, state: State, gain: float = 1.0, lr_multiplier: float = 1.0) -> Tensor:
    weight = state["weight"] * gain * lr_multiplier / math.sqrt(x.shape[1])
    return x @ weight.T + state["bias"] * lr_multiplier


def zeros_between(x: Tensor) -> Tensor:
    """x at every second pixel, beginning with the first."""
    made = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    made[:, :, ::2, ::2] = x
    return made


def fir(x: Tensor, before: int, after: int) -> Tensor:
    """[1, 3, 3, 1] / 8 along both sides, with so many zeros before and after."""
    padded = F.pad(x, (before, after, before, after))
    height, width = padded.shape[2] - 3, padded.shape[3] - 3
    taps = [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    made = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype)
    for dy, dx in itertools.product(range(4), range(4)):
        made += taps[dy] * taps[dx] * padded[:, :, dy : dy + height, dx : dx + width]
    return made


def upsampled(x: Tensor) -> Tensor:
    return 4 * fir(zeros_between(x), 2, 1)


def downsampled(x: Tensor) -> Tensor:
    return fir(x, 1, 1)[:, :, ::2, ::2]


def correlated(image: Tensor, weight: Tensor) -> Tensor:
    """One image (I, H, W), padded already, under weights (O, I, K, K)."""
    outputs, inputs, size, _ = weight.shape
    height, width = image.shape[1] - size + 1, image.shape[2] - size + 1
    made = torch.zeros(outputs, height, width, dtype=image.dtype)
    for i, dy, dx in itertools.product(range(inputs), range(size), range(size)):
        made += weight[:, i, dy, dx, None, None] * image[i, dy : dy + height, dx : dx + width]
    return made


def conv(x: Tensor, state: State, gain: float = 1.0, down: bool = False) -> Tensor:
    size = state["weight"].shape[2]
    weight = state["weight"] * gain / math.sqrt(state["weight"][0].numel())
    if down and size == 1:
        x = downsampled(x)
    elif down:
        x = fir(x, 2, 2)
    else:
        x = F.pad(x, [size // 2] * 4)
    made = torch.stack([correlated(image, weight) for image in x])
    if down and size > 1:
        made = made[:, :, ::2, ::2]
    return made + state["bias"][:, None, None] if "bias" in state else made


def modulated(x: Tensor, styles: Tensor, state: State, demodulate: bool = True, up: bool = False) -> Tensor:
    """Eq. 1 and 3 of arXiv:1912.04958, one image after the other."""
    size, inputs = state["weight"].shape[2], x.shape[1]
    scales = linear(styles, part(state, "affine"))
    images = []
    for image, scale in zip(x, scales, strict=True):
        weight = state["weight"] * scale[None, :, None, None] / math.sqrt(inputs * size**2)
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            between = F.pad(zeros_between(image[None]), (2, 1, 2, 1))[0]
            images.append(4 * fir(correlated(between, weight.flip(2, 3))[None], 1, 1)[0])
        else:
            images.append(correlated(F.pad(image, [size // 2] * 4), weight))
    return torch.stack(images)


def mapping(latents: Tensor | None, state: State, label: Tensor | None = None) -> Tensor:
    """Of latents, of classes, or of both side by side."""
    parts = [] if latents is None else [unit(latents)]
    if label is not None:
        vectors = state["embedding.weight"].T / math.sqrt(state["embedding.weight"].shape[1])
        parts.append(unit(torch.stack([vectors[number] + state["embedding.bias"] for number in label.tolist()])))
    features = torch.cat(parts, 1)
    for number in range(count(part(state, "layers"))):
        features = leaky(linear(features, part(state, f"layers.{number}"), math.sqrt(2), 0.01))
    return features


def styled(x: Tensor, styles: Tensor, noise: Tensor, state: State, up: bool) -> Tensor:
    """The gain of sqrt(2) is LeakyReLU's; what is added lies behind it."""
    made = math.sqrt(2) * modulated(x, styles, part(state, "conv"), up=up)
    return leaky(made + state["noise_strength"] * noise + state["bias"][:, None, None])


def synthesis(state: State, styles: Tensor, noise: Tensor) -> Tensor:
    """styles (N, L, V), noise (N, F) in the order of the layers -> images."""
    x, image = torch.stack([state["constant"]] * len(styles)), None
    for number in range(count(part(state, "layers"))):
        up = number % 2 == 1
        side = x.shape[2] * (2 if up else 1)
        pixels, noise = noise[:, : side**2].reshape(-1, 1, side, side), noise[:, side**2 :]
        x = styled(x, styles[:, number], pixels, part(state, f"layers.{number}"), up)
        if not up:
            to_image = part(state, f"to_images.{number // 2}")
            added = modulated(x, styles[:, number + 1], part(to_image, "conv"), demodulate=False)
            added = added + to_image["bias"][:, None, None]
            image = added if image is None else upsampled(image) + added
    assert image is not None and noise.shape[1] == 0
    return image


def with_deviation(x: Tensor, group: int) -> Tensor:
    """Images 0, 1, 2, 3 are a group, and so on: numbers of every feature and pixel, their deviation, its mean."""
    maps = []
    for start in range(0, len(x), group):
        members = x[start : start + group]
        deviation = ((members - members.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        maps += [deviation.expand(1, *x.shape[2:])] * group
    return torch.cat([x, torch.stack(maps)], 1)


def discriminator(state: State, images: Tensor, label: Tensor | None = None, group: int = 4) -> Tensor:
    """images -> logits."""
    he = math.sqrt(2)
    x = leaky(conv(images, part(state, "from_image"), he))
    for number in range(count(part(state, "blocks"))):
        x = residual(x, part(state, f"blocks.{number}"))
    x = leaky(conv(with_deviation(x, group), part(state, "last"), he))
    outputs = linear(leaky(linear(x.flatten(1), part(state, "hidden"), he)), part(state, "output"))
    if label is None:
        return outputs[:, 0]
    classes = mapping(None, part(state, "labels"), label)
    return torch.stack([row @ of_class / math.sqrt(len(row)) for row, of_class in zip(outputs, classes, strict=True)])


def residual(x: Tensor, state: State) -> Tensor:
    """The published gains: sqrt(2) with every LeakyReLU, 1 / sqrt(2) for the sum; biases are behind them."""
    inside = leaky(conv(x, part(state, "first"), math.sqrt(2)))
    return leaky(conv(inside, part(state, "second"), down=True)) + conv(
        x, part(state, "shortcut"), math.sqrt(0.5), down=True
    )
