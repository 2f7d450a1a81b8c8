"""A frozen text encoder of the Hugging Face hub, by name; needs the extra `text`.

Its weights are no part of a generator's file: there, and in every checkpoint, stands their digest, and whoever loads
the file needs the same encoder at hand.
"""

from __future__ import annotations

import hashlib
import importlib
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .text import shortened

REMEMBERED = 65_536
"""Texts whose vectors are kept, so that an encoder reads each once."""


class Pretrained:
    """The encoder itself, shared by all networks of a process; copies of a network share it too."""

    def __init__(self, id: str, revision: str | None):
        """Raises InputError when transformers is not installed, or the encoder cannot be loaded."""
        try:
            transformers: Any = importlib.import_module("transformers")
        except ImportError as error:
            raise InputError(
                f"gan.encoder {id!r} is loaded by transformers, which is not installed: pip install 'ganpipe[text]', "
                "or set gan.encoder to {name: bytes}"
            ) from error
        self.id = id
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(id, revision=revision)
            model, info = transformers.AutoModel.from_pretrained(
                id,
                revision=revision,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:  # safetensors' and tokenizers' own, and whatever a wrong config.json leads to
            reason = str(error).strip().split("\n", 1)[0]
            raise InputError(
                f"gan.encoder.id: {id!r} cannot be loaded as a text encoder with safetensors: {reason}"
            ) from error
        encoder = model.get_encoder() if model.config.is_encoder_decoder else model
        self.model: Any = getattr(encoder, "text_model", encoder).eval().requires_grad_(False)
        if hasattr(self.model, "pooler"):
            self.model.pooler = nn.Identity()  # nothing is read of it, and files of a masked language model lack it
        unread = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
        if drawn := _drawn(self.model, model, unread):
            raise InputError(
                f"gan.encoder.id: {id!r} has no weights that fit its config.json for {len(drawn)} of the encoder's "
                f"tensors, such as {drawn[0]}, which would be random; name an encoder whose files belong together"
            )
        limits = self.tokenizer.model_max_length, _places(self.model)
        self.limit = min(limit for limit in limits if limit is not None)
        self.dim: int = self.model.config.hidden_size
        self.digest = _digest(self.model)
        self._known: dict[bytes, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Pretrained:
        return self

    def __call__(self, caption_NL: Tensor) -> Tensor:
        """uint8 (N, L), filled up with 0 -> float32 (N, dim): the mean of its last layer over the text's tokens.

        Texts are read one by one: what others are beside it changes no bit of a text's vector.
        Raises InputError as `tokens` does.
        """
        texts = [bytes(row).rstrip(b"\0") for row in caption_NL.cpu().numpy()]
        if len(self._known) > REMEMBERED:
            self._known.clear()
        for data in dict.fromkeys(texts):
            if data not in self._known:
                self._known[data] = self._vector(data.decode(), caption_NL.device)
        return torch.stack([self._known[data] for data in texts]).to(caption_NL.device)

    def tokens(self, text: str) -> dict[str, Tensor]:
        """Of one text: int64 (1, T) by name. Raises InputError when they are none, or more than the encoder reads."""
        tokens: dict[str, Tensor] = self.tokenizer(text, return_tensors="pt", truncation=False)
        count = tokens["input_ids"].shape[1]
        if not count:
            raise InputError(f"text {shortened(text)!r} has no token of gan.encoder {self.id}; say it in other words")
        if count > self.limit:
            raise InputError(
                f"text {shortened(text)!r} has {count} tokens, and gan.encoder {self.id} reads {self.limit}; "
                "say it in fewer words"
            )
        return tokens

    @torch.no_grad()
    def _vector(self, text: str, device: torch.device) -> Tensor:
        tokens = self.tokens(text)
        with torch.autocast(device.type, enabled=False):
            self.model.to(device)
            wanted = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}
            hidden_1TD = self.model(**wanted).last_hidden_state
        mask_1T1 = wanted["attention_mask"].unsqueeze(2)
        return ((hidden_1TD * mask_1T1).sum(1) / mask_1T1.sum(1))[0].float()


@lru_cache(maxsize=4)
def pretrained(id: str, revision: str | None) -> Pretrained:
    """The encoder, loaded once."""
    return Pretrained(id, revision)


def _drawn(encoder: nn.Module, loaded: nn.Module, unread: set[str]) -> list[str]:
    """Which of the `unread` weights of what was loaded the encoder is made of, if it is a part of that."""
    used = {id(tensor) for tensor in encoder.state_dict(keep_vars=True).values()}
    weights = loaded.state_dict(keep_vars=True)
    return [name for name, tensor in weights.items() if name in unread and id(tensor) in used]


def _places(model: Any) -> int | None:
    """Tokens that there are positions for, if they are counted; RoBERTa and its kin begin behind that of padding."""
    places: int | None = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return places if places is None or padding is None else places - padding - 1


def _digest(model: nn.Module) -> bytes:
    sha256 = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha256.update(f"{name}{tuple(tensor.shape)}".encode())
        sha256.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return sha256.digest()


class PretrainedEncoder(nn.Module):
    """uint8 (N, L), filled up with 0 -> (N, E): the frozen encoder's vector, and a linear layer that learns."""

    encoder_sha256: Tensor

    def __init__(self, encoder: Pretrained, text_dim: int):
        super().__init__()
        self.encoder = encoder
        self.out = nn.Linear(encoder.dim, text_dim)
        self.register_buffer("encoder_sha256", torch.tensor(list(encoder.digest), dtype=torch.uint8))

    def forward(self, caption_NL: Tensor) -> Tensor:
        return self.out(self.encoder(caption_NL))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Raises InputError when the weights were trained beside another encoder."""
        stated = state_dict.get(f"{prefix}encoder_sha256")
        if stated is not None and not torch.equal(stated.cpu(), self.encoder_sha256.cpu()):
            raise InputError(
                f"gan.encoder.id: {self.encoder.id!r} has other weights here than it had in training; set its "
                "revision, or restore its folder"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)
