"""A frozen encoder by name: a tiny random one, saved like those of the hub, hears, is not trained, and is asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import SMALL_TEXT, tiny_raw
from torch import nn

from ganpipe import sample
from ganpipe.cli import main
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.gans.base import GAN
from ganpipe.launch import StopSignal
from ganpipe.networks.pretrained import pretrained
from ganpipe.networks.text import to_bytes
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.register import package
from ganpipe.storage import Store
from ganpipe.train.trainer import Trainer

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None and not os.environ.get("CI"), reason="transformers is not installed"
)
WORDS = [
    *("[PAD]", "[UNK]", "a", "bold", "thin", "heavy", "light", "seven", "three"),
    *("leaning", "slanted", "to", "the", "left", "right"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def save_encoder(folder: Path, seed: int = 0, kind: str = "BertModel", reads: int = 16) -> Path:
    """BERT or its kin, of a layer of 16 features, 16 positions, and a tokenizer of at most so many words, but no spaces
    of width zero."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": reads}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    shape |= {"vocab_size": len(WORDS), "num_attention_heads": 2, "max_position_embeddings": 16}
    model = getattr(transformers, kind)
    model(model.config_class(**shape)).save_pretrained(folder)
    return folder


def config_of(encoder: Path, **train: Any) -> RunConfig:
    raw = tiny_raw(**train)
    raw["prepare"]["source"] = {"name": "captioned_digits"}
    return load_config({**raw, "gan": {**SMALL_TEXT, "encoder": {"name": "hugging_face", "id": str(encoder)}}})


def generator_of(encoder: Path, data: Dataset, seed: int = 0) -> tuple[GAN, nn.Module]:
    torch.manual_seed(seed)
    gan = config_of(encoder).recipe()
    return gan, gan.build_networks(data.spec()).generator


def test_a_vector_is_the_mean_of_the_words_and_depends_on_its_own_text_alone(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = save_encoder(tmp_path / "encoder")
    encoder = pretrained(str(folder), None)
    texts = ["a bold seven leaning left", "thin three", "Ω 七"]
    found = encoder(to_bytes(texts, 40))
    assert found.shape == (3, 16) and not found.requires_grad
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(vector, hidden.mean(0))
        assert torch.equal(encoder(to_bytes([text], 60))[0], vector)
    with pytest.raises(InputError, match=r"has 17 tokens, and gan\.encoder .*encoder reads 16"):
        encoder(to_bytes(["a " * 17], 40))


def test_it_is_heard_and_not_trained(captioned_digits: Dataset, store: Store, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    trainer = Trainer(config_of(folder, stop={"kimg": 0.064}), captioned_digits, "run", store, tmp_path)
    before = {name: tensor.clone() for name, tensor in pretrained(str(folder), None).model.state_dict().items()}
    ref = trainer.fit(StopSignal())
    after = pretrained(str(folder), None).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    files = store.fetch(ref.prefix)
    assert not any("embeddings" in name for name in load_file(files["training.safetensors"]))
    loaded = sample.load_generator(files["generator.safetensors"])
    bold, thin = (
        sample.draw_images(loaded.gan, loaded.module, 5, 20, caption=[f"a {weight} seven"] * 20)
        for weight in ("bold", "thin")
    )
    assert not torch.equal(bold, thin)
    trained = sample.draw_images(trainer.gan, trainer.ema.module, 5, 20, caption=["a bold seven"] * 20)
    assert torch.equal(trained, bold)
    assert any(line.startswith("transformers==") for line in package.requirements(loaded))


def test_another_encoder_under_the_same_name_is_refused(
    captioned_digits: Dataset, store: Store, tmp_path: Path
) -> None:
    folder = save_encoder(tmp_path / "encoder")
    ref = Trainer(config_of(folder, stop={"kimg": 0.064}), captioned_digits, "run", store, tmp_path).fit(StopSignal())
    weights = store.fetch(ref.prefix)["generator.safetensors"]
    shutil.rmtree(folder)
    pretrained.cache_clear()
    with pytest.raises(InputError, match=r"gan\.encoder\.id: .*encoder' cannot be loaded"):
        sample.load_generator(weights)
    save_encoder(folder, seed=1)
    with pytest.raises(InputError, match=r"gan\.encoder\.id: .* has other weights here than it had in training"):
        sample.load_generator(weights)


def test_a_masked_language_model_is_the_same_whenever_it_is_loaded(captioned_digits: Dataset, tmp_path: Path) -> None:
    """Its file lacks the pooler, which transformers draws anew each time."""
    folder, weights = save_encoder(tmp_path / "encoder", kind="BertForMaskedLM"), tmp_path / "generator.safetensors"
    gan, generator = generator_of(folder, captioned_digits, seed=1)
    sample.save_generator(weights, gan, generator, captioned_digits.spec(), "run", 0)
    before = sample.draw_images(gan, generator.eval(), 0, 4, caption=["a bold seven"] * 4)
    pretrained.cache_clear()
    torch.manual_seed(2)
    loaded = sample.load_generator(weights)
    assert torch.equal(sample.draw_images(loaded.gan, loaded.module, 0, 4, caption=["a bold seven"] * 4), before)


def test_the_encoder_of_a_pair_needs_no_decoder(tmp_path: Path) -> None:
    """Nor do its files."""
    from transformers import T5Config, T5EncoderModel

    folder = save_encoder(tmp_path / "encoder")
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(WORDS), **shape)).save_pretrained(folder)
    described(folder, is_encoder_decoder=True)
    assert pretrained(str(folder), None)(to_bytes(["a bold seven"], 40)).shape == (1, 16)


def test_captions_of_too_many_tokens_are_refused_before_training(
    captioned_digits: Dataset, store: Store, tmp_path: Path
) -> None:
    texts = [text for split in SPLITS for text in captioned_digits.texts("caption", split)]
    longest = max(len(re.findall(r"\w+|[^\w\s]", text)) for text in texts)
    few, enough = (save_encoder(tmp_path / str(reads), reads=reads) for reads in (longest - 1, longest))
    with pytest.raises(InputError, match=rf"a caption of the data .* has {longest} tokens, and gan\.encoder .* reads"):
        Trainer(config_of(few), captioned_digits, "run", store, tmp_path)
    Trainer(config_of(enough), captioned_digits, "run", store, tmp_path)


def test_positions_that_a_kin_of_roberta_keeps_for_padding_hold_no_tokens(tmp_path: Path) -> None:
    encoder = pretrained(str(save_encoder(tmp_path / "encoder", kind="RobertaForMaskedLM", reads=1000)), None)
    assert encoder(to_bytes(["a " * 14], 40)).isfinite().all()
    with pytest.raises(InputError, match=r"has 15 tokens, and gan\.encoder .* reads 14"):
        encoder(to_bytes(["a " * 15], 40))


def test_texts_without_a_token_are_refused(
    captioned_digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, encoder = tmp_path / "generator.safetensors", save_encoder(tmp_path / "encoder")
    sample.save_generator(weights, *generator_of(encoder, captioned_digits), captioned_digits.spec(), "run", 0)
    asked = ["generate", str(weights), "--n", "2", "--out", str(tmp_path / "x.png"), "--text"]
    assert main([*asked, "\u200b"]) == 2
    assert "text '\\u200b' has no token of gan.encoder" in capsys.readouterr().err
    assert main([*asked, "a " * 17]) == 2
    assert "has 17 tokens, and gan.encoder" in capsys.readouterr().err
    assert main([*asked, "a bold seven"]) == 0


def other_architecture(folder: Path) -> None:
    described(folder, model_type="distilbert", architectures=["DistilBertModel"])


def other_size(folder: Path) -> None:
    described(folder, hidden_size=32)


def no_size(folder: Path) -> None:
    described(folder, hidden_size="wide")


def described(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_architecture, "has no weights that fit its config.json for 16 of the encoder's tensors"),
        (other_size, "has no weights that fit its config.json for 20 of the encoder's tensors, such as embed"),
        (no_size, "cannot be loaded as a text encoder"),
        (cut_off, "cannot be loaded as a text encoder with safetensors: .*incomplete"),
        (no_tokenizer, "cannot be loaded as a text encoder"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = save_encoder(tmp_path / "encoder")
    damage(folder)
    with pytest.raises(InputError, match=rf"gan\.encoder\.id: '{folder}' {message}"):
        pretrained(str(folder), None)


def test_without_transformers_the_extra_is_named(tmp_path: Path) -> None:
    """In a process where it cannot be imported."""
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from ganpipe.networks.pretrained import pretrained\n"
        "from ganpipe.errors import InputError\n"
        "try: pretrained('x/y', None)\n"
        "except InputError as error: sys.exit(str(error))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install 'ganpipe[text]'" in ended.stderr and ended.returncode == 1
