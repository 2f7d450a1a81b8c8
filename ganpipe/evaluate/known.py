"""Feature extractors by name: what is known of them without loading any. Imports no torch.

Ours are `inception`, `domain`, `triples` and `point`; the others are those that torch-fidelity registers, and any torch
module by `package.module:factory`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InputError

INCEPTION = "inception"
DOMAIN = "domain"
POINT = "point"
TRIPLES = "triples"
OF_DATA = frozenset({DOMAIN, POINT, TRIPLES})
"""Those that are made from the data set itself."""
OWN_INCEPTION = "inception-v3-compat"
"""The same network with weights of one's own: torch-fidelity's name for it."""
MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""`package.module:factory`."""


@dataclass(frozen=True)
class Known:
    """What an extractor is."""

    feature_dim: int
    resize: str
    """How it brings an image to its own resolution."""
    file: str = ""
    """Name of the file with its official weights; it has none when that is empty."""
    sha256: str = ""
    """Of that file: all digits, or the first ones when nobody states the others."""
    classifies: bool = False
    """Whether its second output are logits of classes, from which `is` is measured."""


def _resized(feature_dim: int, side: int, file: str = "", sha256: str = "", classifies: bool = False) -> Known:
    return Known(feature_dim, f"bilinear to {side} px like TensorFlow 1", file, sha256, classifies)


def _clip(name: str, feature_dim: int, side: int, sha256: str) -> Known:
    return _resized(feature_dim, side, f"{name}-{sha256}.pt", sha256)


KNOWN: dict[str, Known] = {
    INCEPTION: _resized(2048, 299, "weights-inception-2015-12-05-6726825d.pth", "6726825d", classifies=True),
    DOMAIN: Known(32, "average pooling to at most 32 px", classifies=True),
    TRIPLES: Known(3 * 32, "average pooling to at most 32 px"),
    POINT: Known(2, "none"),
    OWN_INCEPTION: _resized(2048, 299, classifies=True),
    "vgg16": _resized(4096, 224, "vgg16-397923af.pth", "397923af"),
    **{
        name: _clip(name, feature_dim, side, sha256)
        for name, feature_dim, side, sha256 in (
            ("clip-rn50", 1024, 224, "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
            ("clip-rn101", 512, 224, "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
            ("clip-rn50x4", 640, 288, "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
            ("clip-rn50x16", 768, 384, "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
            ("clip-rn50x64", 1024, 448, "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
            ("clip-vit-b-32", 512, 224, "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
            ("clip-vit-b-16", 512, 224, "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
            ("clip-vit-l-14", 768, 224, "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
            ("clip-vit-l-14-336px", 768, 336, "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
        )
    },
    **{f"dinov2-vit-{size}-14": _resized(dim, 224) for size, dim in zip("sblg", (384, 768, 1024, 1536), strict=True)},
}


def is_module(extractor: str) -> bool:
    """Whether the name is that of a torch module, `package.module:factory`."""
    return MODULE.fullmatch(extractor) is not None


def check_name(extractor: str) -> str:
    """The name itself. Raises InputError listing what there is when no extractor answers to it."""
    if extractor in KNOWN or is_module(extractor):
        return extractor
    raise InputError(
        f"there is no extractor {extractor!r}; there is {', '.join(KNOWN)}, or name a torch module as "
        "package.module:factory"
    )


def slug(extractor: str) -> str:
    """The extractor as a part of a metric's name: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", extractor.lower()).strip("-")


def feature_dim(extractor: str) -> int | None:
    """Length of its feature vectors; None when only the module itself knows."""
    return KNOWN[extractor].feature_dim if extractor in KNOWN else None


def resize(extractor: str) -> str:
    """How it brings an image to its own resolution."""
    return KNOWN[extractor].resize if extractor in KNOWN else "the module's own"


def classifies(extractor: str) -> bool:
    """Whether its second output are logits of classes."""
    return extractor in KNOWN and KNOWN[extractor].classifies
