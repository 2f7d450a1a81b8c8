"""R3GAN's networks a second time, slow and obvious, in float64 from a state dict."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def part(state: State, name: str) -> State:
    """What a submodule holds."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("nihw,oi->nohw", x, weight[:, :, 0, 0])


def grouped(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """3x3, zeros around, output channel o of its group's inputs alone."""
    outputs, inputs = weight.shape[:2]
    height, width = x.shape[2:]
    padded = torch.zeros(len(x), x.shape[1], height + 2, width + 2, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = x
    rows = []
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        sums = torch.zeros(len(x), height, width, dtype=x.dtype)
        for i, dy, dx in itertools.product(range(inputs), range(3), range(3)):
            sums = sums + weight[o, i, dy, dx] * padded[:, first + i, dy : dy + height, dx : dx + width]
        rows.append(sums)
    return torch.stack(rows, 1)


def block(x: Tensor, state: State, groups: int) -> Tensor:
    inside = leaky(pointwise(x, state["branch.0.weight"]) + state["branch.0.bias"][:, None, None])
    inside = leaky(grouped(inside, state["branch.2.weight"], groups) + state["branch.2.bias"][:, None, None])
    return x + pointwise(inside, state["branch.4.weight"])


def doubled(x: Tensor) -> Tensor:
    """Bilinear: a new pixel lies a quarter of a pixel beside an old one; beyond the border is the border's value."""
    size = x.shape[-1]
    matrix = torch.zeros(2 * size, size, dtype=x.dtype)
    for old in range(size):
        matrix[2 * old, old] += 0.75
        matrix[2 * old + 1, old] += 0.75
        matrix[2 * old, max(old - 1, 0)] += 0.25
        matrix[2 * old + 1, min(old + 1, size - 1)] += 0.25
    return matrix @ x @ matrix.T


def halved(x: Tensor) -> Tensor:
    """Bilinear: a new pixel lies between four old ones."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def stages(x: Tensor, state: State, cardinality: list[int], blocks: int, resample: list[str]) -> Tensor:
    """Stages with their groups in the order that x goes through them; `resample` names what stands between two."""
    names = sorted({int(key.split(".")[0]) for key in state})
    for number, groups in enumerate(cardinality):
        for _ in range(blocks):
            x = block(x, part(state, str(names.pop(0))), groups)
        if number == len(cardinality) - 1:
            continue
        x = doubled(x) if resample[number] == "double" else halved(x)
        if f"{names[0]}.weight" in state:  # commutes with resampling
            x = pointwise(x, state[f"{names.pop(0)}.weight"])
    assert not names
    return x


def generator(state: State, latents: Tensor, cardinality: list[int], blocks: int) -> Tensor:
    scales = latents.double() @ state["input.weight"].T
    features = torch.einsum("fhw,nf->nfhw", state["basis"], scales)
    made = stages(features, part(state, "stages"), cardinality, blocks, ["double"] * len(cardinality))
    return pointwise(made, state["output.weight"])


def discriminator(
    state: State, images: Tensor, cardinality: list[int], blocks: int, label: Tensor | None = None
) -> Tensor:
    features = pointwise(images.double(), state["input.weight"])
    features = stages(features, part(state, "stages"), cardinality[::-1], blocks, ["halve"] * len(cardinality))
    outputs = torch.einsum("nfhw,fhw->nf", features, state["basis"]) @ state["output.weight"].T
    if label is None:
        return outputs[:, 0]
    classes = state["projection.embedding.weight"].T[label]
    return (outputs * classes).sum(1)


def double(module: torch.nn.Module) -> dict[str, Tensor]:
    """Its state in float64."""
    return {name: tensor.detach().double() for name, tensor in module.state_dict().items()}
