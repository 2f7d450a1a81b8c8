"""From a generator to samples: the one home of sampling, for snapshots, evaluation, the registry and the command line.

Sample i of a seed is one picture, whatever else is drawn with it: noise is keyed by (seed, i), and every forward pass
has the same number of rows, because the last bits of a convolution depend on it.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from .spec import DataSpec, sampled, spec_from_json, spec_to_json

if TYPE_CHECKING:
    from PIL.Image import Image

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

    def _listed(self) -> str:
        shown = ", ".join(self.classes[:LISTED])
        return f"{shown}, ... (number {LISTED} and on)" if len(self.classes) > LISTED else shown

    def served(self, rows: Tensor) -> np.ndarray:
        """Drawn rows as they are handed out: images uint8 (N, H, W, C), points float32 (N, 2)."""
        if self.output == "image":
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
    gan = recipe(recipe.Config.model_validate(metadata["gan"]))
    spec = spec_from_json(metadata["spec"])
    with torch.random.fork_rng(devices=[]):
        module = gan.build_networks(spec).generator
    module.load_state_dict(tensors)
    module.requires_grad_(False)
    return LoadedGenerator(gan, module.to(device).eval(), spec, metadata)


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
) -> Iterator[Tensor]:
    """Samples `indices` of `seed`, in chunks of at most `chunk` rows, float32 as the recipe makes them.

    The generator must be in eval mode. `label` holds one class number per index, `caption` one text; without them a
    generator of classes draws one, each as likely as any other, and a generator of texts one of its examples.
    `truncation` scales the latents.
    """
    for start in range(0, len(indices), chunk):
        wanted = list(indices[start : start + chunk])
        padded = wanted + wanted[-1:] * (chunk - len(wanted))
        labels = texts = None
        if label is not None:
            part = list(label[start : start + chunk])
            labels = torch.tensor(part + part[-1:] * (chunk - len(part)), device=device)
        if caption is not None:
            said = list(caption[start : start + chunk])
            texts = tuple(said + said[-1:] * (chunk - len(said)))
        rng = SampleRng(seed, padded, torch.device(device))
        request = Request(rng, chunk, label=labels, caption=texts, truncation=truncation)
        yield gan.sample(generator, request)[: len(wanted)].float()


def draw_images(
    gan: GAN,
    generator: nn.Module,
    seed: int,
    n: int,
    device: torch.device | str = "cpu",
    label: Sequence[int] | None = None,
    caption: Sequence[str] | None = None,
) -> Tensor:
    """Samples 0, ..., n - 1 of `seed` as uint8 (n, C, H, W) on the CPU; `label` holds n class numbers, `caption` n
    texts."""
    parts = draw(gan, generator, seed, range(n), device, label, caption=caption)
    return torch.cat([to_uint8(part).cpu() for part in parts])


def draw_points(gan: GAN, generator: nn.Module, seed: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Samples 0, ..., n - 1 of `seed` as float32 (n, D) on the CPU."""
    return torch.cat([part.cpu() for part in draw(gan, generator, seed, range(n), device)])


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


def grid(images_NCHW: np.ndarray, columns: int | None = None) -> Image:
    """A picture of uint8 images (N, C, H, W) side by side, row by row."""
    from PIL import Image

    n, channels, height, width = images_NCHW.shape
    columns = columns or max(1, round(n**0.5))
    rows = -(-n // columns)
    canvas = np.zeros((rows * columns, channels, height, width), np.uint8)
    canvas[:n] = images_NCHW
    sheet = canvas.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def grid_png(images_NCHW: np.ndarray, columns: int | None = None, scale_to: int = 64) -> bytes:
    """A PNG of `grid`, each image enlarged to at least `scale_to` pixels."""
    from PIL import Image

    picture = grid(images_NCHW, columns)
    scale = max(1, -(-scale_to // max(images_NCHW.shape[2:])))
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
