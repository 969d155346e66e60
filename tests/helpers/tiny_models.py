"""Makes models for tests without a download: a tiny one of each family, and twins of the demo's of other dimensions."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from searchdb.media.embed import DEMO_FOLDER

WORDS = """
a an the of and with two three in on at by near red orange yellow green blue purple pink white black dog cat bird horse
fish car boat house tree flower ball person man woman child beach sea meadow forest city snow desert day night sunset
photo picture painting
""".split()  # noqa: SIM905 - fifty words are easier to read like this
"""Words that the tiny models have a token for; others are spelt by their letters."""
LETTERS = string.ascii_lowercase + string.digits + "ãçéõáíóúâêü狗猫红车海"
LAYERS, WIDTH, CONTEXT = 2, 32, 16
SMALLEST_TWIN = 384
"""Both projections of the demo's model together have this rank: fewer numbers cannot keep all cosines."""


@dataclass(frozen=True, kw_only=True)
class TinyFamily:
    """How the tiny model of a family is made; `dimension` is the number of numbers that it gives by default."""

    name: str
    model_type: str
    dimension: int
    make: Callable[[Path, int], Any]


def save_tiny_model(name: str, folder: Path, *, dimension: int | None = None, seed: int = 0) -> Path:
    """Save a tiny model of random weights to a folder in Hugging Face layout, and return the folder.

    The same arguments give the same weights. Images have 32 pixels a side, texts 16 tokens; two different images, or
    texts, have clearly different vectors.

    Args:
        name: a key of TINY_FAMILIES.
        folder: made if it does not exist.
        dimension: numbers of a vector, a multiple of 8; None for the family's own in TINY_FAMILIES.
        seed: of the weights.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    family = TINY_FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.make(folder, dimension or family.dimension)
        _spread(model)
    model.eval().save_pretrained(folder)
    return folder


def demo_twin(folder: Path, dimension: int, seed: int = 0) -> Path:
    """Save a model that gives vectors of `dimension` numbers with the cosines of the demo's, and return its folder.

    Both of the demo's projections are multiplied by one matrix with orthonormal columns. In float32 each cosine of two
    of its vectors equals the demo's within 1e-5, hence rankings are equal wherever the demo's similarities differ by
    more. In bfloat16 the weights are rounded: 0.002 measured.

    Args:
        folder: made if it does not exist.
        dimension: numbers of a vector, at least SMALLEST_TWIN; with 512, the demo's own number, it is another model
            nevertheless.
        seed: of the matrix; another seed is another twin, with other weights.

    Raises:
        ValueError: the dimension is too small.
    """
    from safetensors.numpy import load_file, save_file

    if dimension < SMALLEST_TWIN:
        raise ValueError(f"a twin with {dimension} numbers cannot have the demo's cosines: {SMALLEST_TWIN} at least")
    shutil.copytree(DEMO_FOLDER, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
    tensors = {name: tensor.astype(np.float32) for name, tensor in load_file(DEMO_FOLDER / "model.safetensors").items()}
    projections = ("visual_projection.weight", "text_projection.weight")
    basis = np.linalg.qr(np.hstack([tensors[name] for name in projections]).astype(np.float64))[0]
    columns = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, basis.shape[1])))[0]
    for name in projections:
        tensors[name] = (columns @ (basis.T @ tensors[name])).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["projection_dim"] = dimension
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return folder


def _spread(model: Any) -> None:
    """Draw the weights anew, so large that different inputs have clearly different vectors, as after training."""
    import torch

    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim >= 2 and "embedding" in name and "patch" not in name:
                weights.normal_(0, 1)
            elif weights.ndim >= 2:
                weights.normal_(0, (2 / weights[0].numel()) ** 0.5)


def _transformer(**values: Any) -> dict[str, Any]:
    shared = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS}
    return shared | {"num_attention_heads": 2} | values


def _vision(**values: Any) -> dict[str, Any]:
    return _transformer(image_size=32, patch_size=8, **values)


def _save_tokenizer(folder: Path, tokenizer: Any, **config: Any) -> Any:
    """Save a tokenizer, with what its tokenizer_config.json says on the hub."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return tokenizer


def _clip_processor(folder: Path, *, chinese: bool = False) -> None:
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    # As on the hub: Chinese CLIP's images become a square, all others are cropped to it.
    if chinese:
        processor: Any = ChineseCLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    else:
        processor: Any = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)


def _clip(folder: Path, dimension: int) -> Any:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    # Its tokenizer cuts at its own length in tokenizer.json, which is what the model's config says.
    tokenizer = cast("Any", AutoTokenizer).from_pretrained(DEMO_FOLDER)
    _save_tokenizer(folder, tokenizer, model_max_length=CONTEXT)
    _clip_processor(folder)
    text = _transformer(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=_vision(), projection_dim=dimension))


def _unigram(specials: list[str]) -> Any:
    from tokenizers import Tokenizer, models

    pieces = [*specials, "▁", *("▁" + word for word in WORDS), *LETTERS]
    scores = [0.0] * len(specials) + [-6.0] + [-3.0] * len(WORDS) + [-8.0] * len(LETTERS)
    return Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=specials.index("<unk>")))


def _siglip_tokenizer(folder: Path) -> Any:
    """Return SigLIP's: lower case, no punctuation, an end token; it pads with the end token."""
    from tokenizers import Regex, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = _unigram(["<pad>", "</s>", "<unk>"])
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[!\"#$%&'()*+,\-.:;=?@\[\\\]^_`{|}~]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>", model_max_length=CONTEXT
    )
    return _save_tokenizer(folder, fast, tokenizer_class="SiglipTokenizer", model_input_names=["input_ids"])


def _gemma_tokenizer(folder: Path, cls: str) -> Any:
    """Return SigLIP 2's: byte-pair encoding with single bytes for what is unknown, and an end token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    merges = list[tuple[str, str]]()
    for word in WORDS:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*tokens, *("".join(m) for m in merges)]))}
    model = models.BPE(
        vocab=vocabulary, merges=list(dict.fromkeys(merges)), unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=CONTEXT,
        padding_side="right",
    )
    return _save_tokenizer(folder, fast, tokenizer_class=cls, padding_side="right", model_input_names=["input_ids"])


def _siglip_texts(tokenizer: Any, dimension: int) -> dict[str, Any]:
    return _transformer(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        projection_size=dimension,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _siglip_with(folder: Path, dimension: int, tokenizer: Any) -> Any:
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    cast("Any", SiglipImageProcessorPil(size={"height": 32, "width": 32})).save_pretrained(folder)
    vision = _vision() | {"hidden_size": dimension}
    return SiglipModel(SiglipConfig(text_config=_siglip_texts(tokenizer, dimension), vision_config=vision))


def _siglip(folder: Path, dimension: int) -> Any:
    return _siglip_with(folder, dimension, _siglip_tokenizer(folder))


def _siglip2(folder: Path, dimension: int) -> Any:
    """SigLIP 2 of a fixed size is a `siglip` with Gemma's tokenizer."""
    return _siglip_with(folder, dimension, _gemma_tokenizer(folder, "GemmaTokenizer"))


def _siglip2_naflex(folder: Path, dimension: int) -> Any:
    from transformers import Siglip2Config, Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    tokenizer = _gemma_tokenizer(folder, "Siglip2Tokenizer")
    cast("Any", Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)).save_pretrained(folder)
    vision = _transformer(patch_size=8, num_patches=16) | {"hidden_size": dimension}
    return Siglip2Model(Siglip2Config(text_config=_siglip_texts(tokenizer, dimension), vision_config=vision))


def _xlm_tokenizer(folder: Path) -> Any:
    from transformers import XLMRobertaTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *("▁" + word for word in WORDS), *LETTERS, "<mask>"]
    scores = [0.0] * 4 + [-6.0] + [-3.0] * len(WORDS) + [-8.0] * len(LETTERS) + [0.0]
    tokenizer = XLMRobertaTokenizer(vocab=list(zip(pieces, scores, strict=True)), model_max_length=CONTEXT)
    return _save_tokenizer(folder, tokenizer)


def _metaclip_2(folder: Path, dimension: int) -> Any:
    from transformers import MetaClip2Config, MetaClip2Model

    tokenizer = _xlm_tokenizer(folder)
    _clip_processor(folder)
    text = _transformer(
        vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, bos_token_id=0, pad_token_id=1, eos_token_id=2
    )
    return MetaClip2Model(MetaClip2Config(text_config=text, vision_config=_vision(), projection_dim=dimension))


def _altclip(folder: Path, dimension: int) -> Any:
    from transformers import AltCLIPConfig, AltCLIPModel

    tokenizer = _xlm_tokenizer(folder)
    _clip_processor(folder)
    # Its positions begin behind the number of the padding token, as XLM-RoBERTa's do.
    text = _transformer(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT + 2, project_dim=WIDTH)
    return AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=_vision(), projection_dim=dimension))


def _bert_tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizer

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *("##" + letter for letter in LETTERS)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer: Any = BertTokenizer(vocab=vocabulary, model_max_length=CONTEXT)
    return _save_tokenizer(folder, tokenizer)


def _chinese_clip(folder: Path, dimension: int) -> Any:
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    tokenizer = _bert_tokenizer(folder)
    _clip_processor(folder, chinese=True)
    text = _transformer(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT)
    return ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=_vision(), projection_dim=dimension))


def _align(folder: Path, dimension: int) -> Any:
    from transformers import AlignConfig, AlignModel
    from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

    tokenizer = _bert_tokenizer(folder)
    # As kakaobrain/align-base: scaled to a larger square, cropped, and mapped to -1..1 without mean and deviation.
    processor: Any = EfficientNetImageProcessorPil(
        size={"height": 38, "width": 38},
        crop_size={"height": 32, "width": 32},
        resample=2,  # type: ignore[arg-type]
        do_center_crop=True,
        do_normalize=False,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        include_top=False,
    )
    processor.save_pretrained(folder)
    text = _transformer(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT)
    vision = {
        "image_size": 32,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "hidden_dim": 64,  # of the pool, which takes in the whole image
        "in_channels": [32, 16],
        "out_channels": [16, dimension],  # which is what an image's vector has
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "depthwise_padding": [],
    }
    return AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=dimension))


TINY_FAMILIES = {
    family.name: family
    for family in (
        TinyFamily(name="clip", model_type="clip", dimension=64, make=_clip),
        TinyFamily(name="siglip", model_type="siglip", dimension=96, make=_siglip),
        TinyFamily(name="siglip2", model_type="siglip", dimension=160, make=_siglip2),
        TinyFamily(name="siglip2-naflex", model_type="siglip2", dimension=72, make=_siglip2_naflex),
        TinyFamily(name="metaclip-2", model_type="metaclip_2", dimension=128, make=_metaclip_2),
        TinyFamily(name="altclip", model_type="altclip", dimension=112, make=_altclip),
        TinyFamily(name="chinese-clip", model_type="chinese_clip", dimension=104, make=_chinese_clip),
        TinyFamily(name="align", model_type="align", dimension=88, make=_align),
    )
}
"""The tiny models by name: each family, SigLIP 2 both with a fixed size (of type `siglip`) and with NaFlex."""
