"""From a generator to samples: the one home of sampling, for snapshots, evaluation, the registry and the command line.

Sample i of a seed is one picture, whatever else is drawn with it: noise is keyed by (seed, i), and every forward pass
has the same number of rows, because the last bits of a convolution depend on it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import InputError
from .gans import GANS
from .gans.base import GAN, OutputKind, Request
from .rng import SampleRng
from .seeds import derive_seed
from .spec import Column, DataSpec, Direction, sampled, spec_from_json, spec_to_json, ways

FORMAT = 1
CHUNK = 64
"""Rows of every forward pass; part of every protocol."""
BATCH_NORM_CHUNKS = 16
LISTED = 100
"""Most classes that a message names."""


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready to sample from, and what it is."""

    gan: GAN
    module: nn.Module
    spec: DataSpec
    metadata: dict[str, Any]
    """`run_id`, `images_seen`, `config` (the recipe's) as they were saved."""

    @property
    def output(self) -> OutputKind:
        """What it makes."""
        return self.gan.output(self.spec)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that it can be asked for, by number; none when it takes no label."""
        return (self.spec["label"].vocabulary or ()) if "label" in self.gan.columns(self.spec) else ()

    def class_numbers(self, asked: Sequence[str | int]) -> list[int]:
        """Of classes by name or by number; a name that is some other class's number is a name.

        Raises InputError listing the classes when there is no such class, or none at all.
        """
        if asked and not self.classes:
            rather = "ask it for a text" if self.takes_text else "leave the label out"
            raise InputError(f"label {asked[0]!r}: this generator was trained without labels; {rather}")
        numbers = {str(number): number for number in range(len(self.classes))}
        numbers |= {name: number for number, name in enumerate(self.classes)}
        for label in asked:
            if str(label) not in numbers:
                raise InputError(f"there is no class {label!r}; the {len(self.classes)} classes are {self._listed()}")
        return [numbers[str(label)] for label in asked]

    @property
    def takes_text(self) -> bool:
        """Whether it can be asked for a text."""
        return "caption" in self.gan.columns(self.spec)

    def texts(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The texts themselves. Raises InputError when it cannot be asked for one of them, or for any."""
        if asked and not self.takes_text:
            rather = "ask it for a label" if self.classes else "leave the text out"
            raise InputError(f"text {asked[0]!r}: this generator was trained without captions; {rather}")
        for text in dict.fromkeys(asked):
            self.gan.check_text(text)
        return tuple(asked)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """In which images can be translated; none when it draws its samples."""
        return tuple(ways(self.spec)) if self.output == "translation" else ()

    def direction(self, asked: str | None) -> Direction:
        """The direction asked for, or the only one there is.

        Raises InputError when there is no such direction, or there are two and nobody asks for one.
        """
        if not self.directions:
            raise InputError(f"this generator draws {self.output}s, and translates none")
        if len(self.directions) > 1 and asked is None:
            raise InputError(f"this generator translates both ways; say which: {' or '.join(self.directions)}")
        found = next((direction for direction in self.directions if asked in (None, direction)), None)
        if found is not None:
            return found
        if len(self.directions) == 1:
            raise InputError(
                f"this generator knows one way, {self.directions[0]} from its sources to its targets, and not "
                f"{asked}; leave the direction out"
            )
        raise InputError(f"this generator translates {' and '.join(self.directions)}, not {asked}")

    def source(self, direction: Direction) -> Column:
        """The images that are translated in this direction."""
        return self.spec[ways(self.spec)[direction][0]]

    def source_channels(self, direction: Direction) -> Literal[1, 3]:
        """Of the images that are translated in this direction."""
        return 1 if self.source(direction).shape[0] == 1 else 3

    def _listed(self) -> str:
        shown = ", ".join(self.classes[:LISTED])
        return f"{shown}, ... (number {LISTED} and on)" if len(self.classes) > LISTED else shown

    def served(self, rows: Tensor) -> np.ndarray:
        """Drawn rows as they are handed out: images uint8 (N, H, W, C), points float32 (N, 2)."""
        if self.output in ("image", "translation"):
            return to_uint8(rows).permute(0, 2, 3, 1).cpu().numpy()
        return rows.cpu().numpy()

    def room_for(self, n: int) -> np.ndarray:
        """Zeros for n rows as `served` hands them out."""
        none = self.served(torch.zeros(0, *sampled(self.spec).shape))
        return np.zeros((n, *none.shape[1:]), none.dtype)


def save_generator(path: Path, gan: GAN, module: nn.Module, spec: DataSpec, run_id: str, images_seen: int) -> None:
    """Write weights and all that sampling needs to know as one safetensors file."""
    metadata = {
        "format": FORMAT,
        "kind": "generator",
        "gan": gan.config.model_dump(mode="json"),
        "spec": spec_to_json(spec),
        "run_id": run_id,
        "images_seen": images_seen,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, path, {"ganpipe": json.dumps(metadata)})


def load_generator(path: Path, device: torch.device | str = "cpu") -> LoadedGenerator:
    """The generator of a safetensors file, in eval mode. Raises InputError naming the file when it is no such thing."""
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})["ganpipe"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a generator saved by ganpipe: {type(error).__name__}: {error}") from error
    if metadata.get("format") != FORMAT or metadata.get("kind") != "generator":
        raise InputError(
            f"{path} holds {metadata.get('kind')} of format {metadata.get('format')}, "
            f"not a generator of format {FORMAT}"
        )
    recipe = GANS.get(metadata["gan"]["name"])
    if recipe is None:
        raise InputError(f"{path} was made by the recipe {metadata['gan']['name']!r}; there is {', '.join(GANS)}")
    try:
        gan, spec = recipe(recipe.Config.model_validate(metadata["gan"])), spec_from_json(metadata["spec"])
        with torch.random.fork_rng(devices=[]):
            module = gan.build_networks(spec).generator
        module.load_state_dict(tensors)
    except InputError:
        raise
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path} holds no generator that this version can build: {error}") from error
    module.requires_grad_(False)
    return LoadedGenerator(gan, placed(module, torch.device(device)).eval(), spec, metadata)


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """On the device, convolutions in the memory format that they are fast in: one, so that samples are the same to the
    bit in the trainer and from a file."""
    return module.to(device).to(memory_format=torch.channels_last)


@torch.no_grad()
def draw(
    gan: GAN,
    generator: nn.Module,
    seed: int,
    indices: Sequence[int],
    device: torch.device | str = "cpu",
    label: Sequence[int] | None = None,
    chunk: int = CHUNK,
    truncation: float = 1.0,
    caption: Sequence[str] | None = None,
    sources: Tensor | None = None,
    direction: Direction = "AtoB",
) -> Iterator[Tensor]:
    """Samples `indices` of `seed`, in chunks of at most `chunk` rows, float32 as the recipe makes them.

    The generator must be in eval mode. `label` holds one class number per index, `caption` one text; without them a
    generator of classes draws one, each as likely as any other, and a generator of texts one of its examples.
    `truncation` scales the latents. `sources`, float in [-1, 1] with one image per index, are what is translated.
    """
    for start in range(0, len(indices), chunk):
        rows = slice(start, start + chunk)
        rng = SampleRng(seed, _filled(indices[rows], chunk), torch.device(device))
        labels = None if label is None else torch.tensor(_filled(label[rows], chunk), device=device)
        texts = None if caption is None else tuple(_filled(caption[rows], chunk))
        images = None if sources is None else sources[_filled(range(len(indices))[rows], chunk)].to(device)
        request = Request(
            rng, chunk, sources=images, direction=direction, label=labels, caption=texts, truncation=truncation
        )
        yield gan.sample(generator, request)[: len(indices[rows])].float()


def _filled(values: Sequence[Any], chunk: int) -> list[Any]:
    """As many values as a chunk has, the last one over and over."""
    return [*values, *[values[-1]] * (chunk - len(values))]


def draw_images(
    gan: GAN,
    generator: nn.Module,
    seed: int,
    n: int,
    device: torch.device | str = "cpu",
    label: Sequence[int] | None = None,
    caption: Sequence[str] | None = None,
    truncation: float = 1.0,
) -> Tensor:
    """Samples 0, ..., n - 1 of `seed` as uint8 (n, C, H, W) on the CPU; `label` holds n class numbers, `caption` n
    texts."""
    parts = draw(gan, generator, seed, range(n), device, label, truncation=truncation, caption=caption)
    return torch.cat([to_uint8(part).cpu() for part in parts])


def translate(
    gan: GAN,
    generator: nn.Module,
    seed: int,
    indices: Sequence[int],
    sources_NCHW: Tensor,
    direction: Direction = "AtoB",
    device: torch.device | str = "cpu",
    chunk: int = CHUNK,
) -> Tensor:
    """Image i of the uint8 `sources_NCHW` translated, with noise of `indices`[i] of the seed: float32 on `device`."""
    sources = to_float(sources_NCHW)
    parts = draw(gan, generator, seed, indices, device, chunk=chunk, sources=sources, direction=direction)
    return torch.cat(list(parts))


def translate_image(
    loaded: LoadedGenerator, seed: int, index: int, image_CHW: np.ndarray, direction: Direction
) -> np.ndarray:
    """A uint8 image of any size translated to one of the same size: mirrored beyond its right and lower border to a
    size that the networks take, and cropped back. The noise is that of sample `index` of the seed."""
    _, height, width = image_CHW.shape
    more = [(0, loaded.gan.padded(side, loaded.spec) - side) for side in (height, width)]
    padded = np.pad(image_CHW, ((0, 0), *more), mode="symmetric")
    device = next(loaded.module.parameters()).device
    sources = torch.from_numpy(padded)[None]
    (made,) = translate(loaded.gan, loaded.module, seed, [index], sources, direction, device, chunk=1)
    return to_uint8(made[:, :height, :width]).cpu().numpy()


def draw_points(
    gan: GAN, generator: nn.Module, seed: int, n: int, device: torch.device | str = "cpu", truncation: float = 1.0
) -> Tensor:
    """Samples 0, ..., n - 1 of `seed` as float32 (n, D) on the CPU."""
    return torch.cat([part.cpu() for part in draw(gan, generator, seed, range(n), device, truncation=truncation)])


@torch.no_grad()
def draw_walks(
    gan: GAN,
    generator: nn.Module,
    seed: int,
    walks: int,
    stops: int,
    steps: int,
    device: torch.device | str = "cpu",
    label: Sequence[int] | None = None,
    caption: Sequence[str] | None = None,
    truncation: float = 1.0,
    chunk: int = CHUNK,
) -> Iterator[Tensor]:
    """Closed walks through the latents: `stops` x `steps` frames, each float32 (walks, ...) as the recipe makes them.

    Walk i goes from sample i x stops of the seed to the latents of the `stops` - 1 next ones, and back, in `steps`
    steps each; its class or text, its piece of the prior and its noise stay that first sample's. `label` holds a class
    number per walk, `caption` a text. A walk is the same whatever else is drawn with it.
    """
    device = torch.device(device)
    places = [(walk, leg, step) for leg in range(stops) for step in range(steps) for walk in range(walks)]
    made: list[Tensor] = []
    for start in range(0, len(places), chunk):
        wanted = places[start : start + chunk]
        walk_N, leg_N, step_N = (list(column) for column in zip(*_filled(wanted, chunk), strict=True))
        home, *ends = (
            SampleRng(seed, [walk * stops + leg % stops for walk, leg in zip(walk_N, legs, strict=True)], device)
            for legs in ([0] * chunk, leg_N, [leg + 1 for leg in leg_N])
        )
        labels = None if label is None else torch.tensor([label[walk] for walk in walk_N], device=device)
        texts = None if caption is None else tuple(caption[walk] for walk in walk_N)
        request = Request(home, chunk, label=labels, caption=texts, truncation=truncation)
        way_N = torch.tensor(step_N, device=device) / steps
        made += gan.between(generator, request, (ends[0], ends[1]), way_N)[: len(wanted)].float()
        while len(made) >= walks:
            yield torch.stack(made[:walks])
            made = made[walks:]


def to_uint8(images_NCHW: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8, rounded to the nearest; values outside are clamped."""
    return images_NCHW.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images_NCHW: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]; inverse of `to_uint8`."""
    return images_NCHW.float().div(127.5).sub(1)


@torch.no_grad()
def refresh_batch_norm(gan: GAN, generator: nn.Module, device: torch.device | str = "cpu") -> None:
    """Recompute the running statistics of batch normalisation from fixed latents, in place; leaves eval mode.

    Those that training accumulates belong to other weights (the moving average has none) and differ between ranks.
    """
    generator.eval()
    layers = [module for module in generator.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    for _ in draw(gan, generator, derive_seed("batch-norm"), range(BATCH_NORM_CHUNKS * CHUNK), device):
        pass
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def frozen_copy(generator: nn.Module) -> nn.Module:
    """A copy that never trains."""
    return copy.deepcopy(generator).requires_grad_(False).eval()
