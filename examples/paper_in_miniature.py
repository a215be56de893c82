"""Helpers of `paper_in_miniature.sh`; tiny random checkpoints come from the libraries of the real ones.

python paper_in_miniature.py checkpoints FOLDER      # SANA, Gemma 2, CLIP, DINOv2, a .pth of NVlabs, a tagger
python paper_in_miniature.py sentences tags.json     # {"photo": ["one sentence"]} for each photo, in sentences.json
python paper_in_miniature.py table RESULT.json...    # results of `linearsr eval --json`, as one table
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig

CHANNELS = 16
TAGS = ("sky", "tree", "leaves", "brick wall", "roof", "flower", "car", "bridge")
VISION = {"hidden_size": CHANNELS, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_checkpoints(folder: Path) -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    write_sana(folder / "sana")
    write_nvlabs(folder / "sana.pth")
    write_vision(folder)
    tagger = OwnTagger(OwnTaggerConfig(TAGS, (0.0,) * len(TAGS), 3, image_size=32, num_blocks=2))
    tagger.save_pretrained(folder / "tagger")
    text = {"text_encoder": "sana/text_encoder", "tokenizer": "sana/tokenizer", "channels": CHANNELS}
    write_config(folder / "tags", "TextGuidance", **text, separate=True)
    write_config(folder / "sentences", "TextGuidance", **text, sentences=True)
    write_config(
        folder / "clip", "CLIPGuidance", channels=CHANNELS, image_encoder="clip_encoder", image_size=32
    )
    write_config(
        folder / "dino", "DINOGuidance", channels=CHANNELS, image_encoder="dino_encoder", image_size=32
    )


def write_config(folder: Path, class_name: str, **settings: object) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": class_name, **settings}))


def write_sana(folder: Path) -> None:
    import diffusers
    import transformers

    sana = {
        "in_channels": 8,
        "out_channels": 8,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
    }
    cross = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16}
    network = diffusers.SanaTransformer2DModel(**sana, **cross, caption_channels=CHANNELS)
    network.save_pretrained(folder / "transformer")
    levels = 6
    diffusers.AutoencoderDC(
        latent_channels=8,
        attention_head_dim=2,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8,) * levels,
        decoder_block_out_channels=(8,) * levels,
        encoder_layers_per_block=(1,) * levels,
        decoder_layers_per_block=(1,) * levels,
        encoder_qkv_multiscales=((),) * levels,
        decoder_qkv_multiscales=((),) * levels,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    ).save_pretrained(folder / "vae")
    diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    gemma = transformers.Gemma2Config(
        vocab_size=400,
        hidden_size=CHANNELS,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    transformers.Gemma2Model(gemma).save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer that works byte by byte, so that it knows every text."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(letters)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=300, **names)
    fast.save_pretrained(folder)


def write_vision(folder: Path) -> None:
    """Write the image encoders, CLIP and DINOv2."""
    import transformers as tf

    text = {**VISION, "vocab_size": 400, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 1}
    sight = {**VISION, "patch_size": 8, "image_size": 32}
    clip = tf.CLIPConfig(text_config=text, vision_config=sight, projection_dim=12)
    tf.CLIPModel(clip).save_pretrained(folder / "clip_encoder")
    tf.Dinov2Model(tf.Dinov2Config(**sight)).save_pretrained(folder / "dino_encoder")
    write_tokenizer(folder / "clip_encoder")


def write_nvlabs(file: Path) -> None:
    """A checkpoint as NVlabs names and joins its tensors, of the published width but with one block."""
    width, channels = 1152, 8
    layers = {
        "x_embedder.proj": (width, channels, 1, 1),
        "y_embedder.y_proj.fc1": (width, CHANNELS),
        "y_embedder.y_proj.fc2": (width, width),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "t_block.1": (6 * width, width),
        "final_layer.linear": (channels, width),
        "blocks.0.attn.proj": (width, width),
        "blocks.0.cross_attn.q_linear": (width, width),
        "blocks.0.cross_attn.kv_linear": (2 * width, width),
        "blocks.0.cross_attn.proj": (width, width),
        "blocks.0.mlp.inverted_conv.conv": (2 * width, width, 1, 1),
        "blocks.0.mlp.depth_conv.conv": (2 * width, 1, 3, 3),
    }
    state = {f"{name}.weight": torch.randn(shape) / 100 for name, shape in layers.items()}
    state |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in layers.items()}
    state["blocks.0.attn.qkv.weight"] = torch.randn(3 * width, width) / 100
    state["blocks.0.mlp.point_conv.conv.weight"] = torch.randn(width, width, 1, 1) / 100
    state["blocks.0.scale_shift_table"] = torch.randn(6, width) / 100
    state["final_layer.scale_shift_table"] = torch.randn(2, width) / 100
    state["attention_y_norm.weight"] = torch.ones(width)
    state["y_embedder.y_embedding"] = torch.zeros(300, CHANNELS)
    torch.save({"state_dict": state}, file)


def write_sentences(tags: Path) -> None:
    sentences = {
        photo: [f"a photo of {' and '.join(found)}, seen from afar on a grey day"]
        for photo, found in json.loads(tags.read_text()).items()
    }
    tags.with_name("sentences.json").write_text(json.dumps(sentences))


def print_table(files: list[Path]) -> None:
    results: dict[str, dict[str, Any]] = {
        file.stem: json.loads(file.read_text())["metrics"] for file in files
    }
    metrics = list(next(iter(results.values())))
    print(f"| {'':22} | {' | '.join(f'{metric:>8}' for metric in metrics)} |")
    print(f"| {'-' * 22} | {' | '.join('-' * 8 for _ in metrics)} |")
    for name, found in results.items():
        means = [f"{found[metric]['mean']:8.3f}" for metric in metrics]
        print(f"| {name:22} | {' | '.join(means)} |")


if __name__ == "__main__":
    command, *given = sys.argv[1:]
    places = [Path(name) for name in given]
    if command == "checkpoints":
        write_checkpoints(places[0])
    elif command == "sentences":
        write_sentences(places[0])
    else:
        print_table(places)
