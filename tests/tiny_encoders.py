"""Encoders of a few thousand random weights, written by `transformers` in the formats of the published ones."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = "a photo of in the brick wall ivy sky tree sea old grass , . and rock snow bird cat dog house"


def write_tokenizer(folder: Path, max_length: int = 300) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a token at the beginning, as Gemma's: any text can be written with it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=max_length,
    )
    fast.save_pretrained(folder)
    return fast


def autoencoder_config(channels: tuple[int, ...] = (8, 8, 16, 16)) -> dict[str, Any]:
    """Of a DC-AE with a level for each of `channels`, half as large as the one before."""
    levels = len(channels)
    each = {"block_types": "ResBlock", "block_out_channels": channels}
    each |= {"layers_per_block": (1,) * levels, "qkv_multiscales": ((),) * levels}
    both = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in each.items()}
    sampling = {"downsample_block_type": "Conv", "upsample_block_type": "interpolate"}
    return {"in_channels": 3, "latent_channels": 8, "attention_head_dim": 8, **both, **sampling}


def write_gemma2(folder: Path, channels: int = 16) -> transformers.PreTrainedModel:
    return _write(
        folder,
        "Gemma2Model",
        transformers.Gemma2Config(
            vocab_size=400,
            hidden_size=channels,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            sliding_window=64,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        ),
    )


def write_t5(folder: Path, channels: int = 16) -> transformers.PreTrainedModel:
    config = transformers.T5Config(
        vocab_size=400, d_model=channels, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return _write(folder, "T5ForConditionalGeneration", config)


_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
}
_TEXT = {**_VISION, "vocab_size": 400, "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 1}
_TEXT.pop("patch_size")


def write_clip(folder: Path) -> transformers.PreTrainedModel:
    vision = {**_VISION, "image_size": 32}
    config = transformers.CLIPConfig(text_config=_TEXT, vision_config=vision, projection_dim=12)
    write_tokenizer(folder, 16)
    return _write(folder, "CLIPModel", config)


def write_dino(folder: Path, kind: str) -> transformers.PreTrainedModel:
    """`kind`: Dinov2, Dinov2WithRegisters or DINOv3ViT."""
    config = getattr(transformers, f"{kind}Config")(**_VISION, image_size=32)
    return _write(folder, f"{kind}Model", config)


def _write(folder: Path, name: str, config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model
