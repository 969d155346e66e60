"""Builds the untrained CLIP of the demo, its tokenizer and its image processor, and saves them."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from searchdb.demo.trainset import IMAGE_SIZE, PATCH_SIZE

# Longest text in tokens; a full sentence about three groups of objects has about 25.
CONTEXT_LENGTH = 48
MERGES = 600
WIDTH = 192
VISION_LAYERS = 6
# The captions are simple: a third text layer would cost more training steps than it gains.
TEXT_LAYERS = 2
# Equal to that of openai/clip-vit-base-patch32, because the column is vector(512).
EMBEDDING_SIZE = 512
# CLIP's own mean and standard deviation are those of photographs; these map 0..255 to -1..1.
PIXEL_MEAN = PIXEL_STD = 0.5

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """Return a byte-level BPE tokenizer in CLIP's format with merges learnt from the texts."""
    blank = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=256 + 128 + MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=[],
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    # As in CLIP, every byte, alone and at a word's end, is a token, so that the tokenizer can encode any text.
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)  # type: ignore[arg-type]


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained CLIP of 4.2 million parameters for the tokenizer."""
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 3, "hidden_act": "gelu"}
    config = CLIPConfig(
        text_config={
            **shared,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": TEXT_LAYERS,
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "projection_dim": EMBEDDING_SIZE,
        },
        vision_config={
            **shared,
            "num_hidden_layers": VISION_LAYERS,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "projection_dim": EMBEDDING_SIZE,
        },
        projection_dim=EMBEDDING_SIZE,
    )
    # On these tiny matrices the plain implementation is twice as fast as the fused one.
    config._attn_implementation = "eager"  # pyright: ignore[reportPrivateUsage] - transformers has no public setter
    return CLIPModel(config)


def build_processor() -> CLIPImageProcessorPil:
    """Return the processor: resize the shorter side to the model's size, centre crop, scale to -1..1."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the Hugging Face layout with float16 weights; each file is replaced atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        half = cast("Any", copy.deepcopy(model)).half()
        # Of type Any, because transformers does not type save_pretrained.
        savers: tuple[Any, ...] = (half, tokenizer, build_processor())
        for saver in savers:
            saver.save_pretrained(fresh)
        for file in Path(fresh).iterdir():
            file.chmod(0o644)
            file.replace(folder / file.name)
