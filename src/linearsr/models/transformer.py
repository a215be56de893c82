"""The network of LinearSR: a SANA-family diffusion transformer that also sees features of the LR image.

All parameters have the names and shapes of `diffusers.SanaTransformer2DModel`, with four differences, all set
in the config: `lr_channels` more inputs of `patch_embed.proj` (after those of the latent); `null_tokens` that
replace missing guidance; the output layers (`lr_skip` from the LR features straight to the output, or a
convolutional `detail_head`); and the meaning of the output (`prediction_type`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linearsr.models.attention import RMSNorm
from linearsr.models.blocks import TimeEmbedding, TransformerBlock, TwoLayerMLP, modulated_norm
from linearsr.models.residual import FINE, DetailHead
from linearsr.models.rows import PerPixel, Rows, StridedConv2d, joined
from linearsr.models.transformer_config import TransformerConfig, config_from_sana
from linearsr.runtime.checkpoints import (
    PretrainedModule,
    StrPath,
    load_config,
    load_weights,
    resolve_folder,
)

MASKED = -10_000.0
NORM_OUT_EPS = 1e-6
CAPTION_NORM_EPS = 1e-5
INPUT_WEIGHT = "patch_embed.proj.weight"
_CAPTION_WEIGHT = "caption_projection.linear_1.weight"


class Conditions(NamedTuple):
    """The conditioning that every block receives besides the image."""

    context: Tensor
    """Guidance tokens (B, L, C) at the inner width."""
    bias: Tensor | None
    """Bias added to the scores of the cross-attention, (B, 1, 1, L); None: all tokens are used."""
    modulation: Tensor
    """Shifts, scales and gates for the blocks, computed from the time, (B, 6, C)."""
    embedded: Tensor
    """Embedding of the time, (B, 1, C)."""


class LinearSRTransformer(PretrainedModule):
    """Network from noisy latent, time, LR features and guidance tokens to velocity or clean latent."""

    config_class: ClassVar[type[TransformerConfig]] = TransformerConfig
    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.gradient_checkpointing = False
        self.patch_embed = nn.Module()
        self.patch_embed.proj = StridedConv2d(
            config.in_channels + config.lr_channels, width, patch, stride=patch
        )
        self.time_embed = TimeEmbedding(width)
        self.caption_projection = TwoLayerMLP(config.caption_channels, width, nn.GELU(approximate="tanh"))
        self.caption_norm = RMSNorm(width, eps=CAPTION_NORM_EPS)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width, eps=NORM_OUT_EPS, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.empty(2, width).normal_(std=width**-0.5))
        detailed = config.detail_blocks > 0
        out_width = FINE**2 * config.detail_channels if detailed else patch * patch * config.out_channels
        self.proj_out = nn.Linear(width, out_width)
        self.detail_head = (
            DetailHead(config.detail_channels, config.lr_channels, config.detail_blocks, config.out_channels)
            if detailed
            else None
        )
        if config.num_null_tokens:
            self.null_tokens = nn.Parameter(_fresh_tokens(config.num_null_tokens, config.caption_channels))
        self.lr_skip = nn.Conv2d(config.lr_channels, config.out_channels, 1) if config.lr_skip else None
        self._initialise()

    def _initialise(self) -> None:
        """Start as SANA (Xavier; small time and caption embeddings), LR inputs and cross-attention at 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (self.time_embed.emb, self.time_embed.linear, self.caption_projection):
            for module in embedding.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
        for block in self.transformer_blocks:
            nn.init.zeros_(block.get_parameter("attn2.to_out.0.weight"))
        if self.lr_skip is not None:
            for parameter in self.lr_skip.parameters():
                nn.init.zeros_(parameter)
        self._initialise_patch_embed()

    def _initialise_patch_embed(self) -> None:
        weight = self.patch_embed.get_parameter("proj.weight")
        latent = slice(0, self.config.in_channels)
        with torch.no_grad():
            start = torch.empty(len(weight), weight[0, latent].numel())
            weight.zero_()
            weight[:, latent] = nn.init.xavier_uniform_(start).view_as(weight[:, latent])
        nn.init.zeros_(self.patch_embed.get_parameter("proj.bias"))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        lr_features: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity or the clean latent, as set by `config.prediction_type`.

        Args:
            hidden_states: noisy latent (B, in_channels, h, w); h and w are multiples of the patch size.
            timestep: (B,), or one value for all images, from 0 (clean) to 1000 (noise).
            lr_features: (B, lr_channels, h, w); needed if `config.lr_channels` is above 0.
            encoder_hidden_states: guidance tokens (B, L, caption_channels); None: the learned null tokens.
            encoder_attention_mask: (B, L), 1 for tokens to use and 0 for padding. Images without any token to
                use get the null tokens, if the network has them.

        Returns:
            (B, out_channels, h, w)

        Raises:
            ValueError: inputs do not fit the config or each other.
        """
        batch, _, height, width = hidden_states.shape
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"a latent of {height}x{width} cannot be cut into patches of {patch}x{patch}")
        grid = height // patch, width // patch

        # conditioning: modulation by the time and guidance tokens, the same for every block
        said = self.conditions(timestep, encoder_hidden_states, encoder_attention_mask, batch)
        # patch embedding: noisy latent and LR features, joined on channels, become tokens
        x = self.embed(hidden_states, lr_features)
        for block in self.transformer_blocks:
            # transformer blocks; a checkpointed block is recomputed in the backward pass
            run = partial(checkpoint, block, use_reentrant=False) if self.gradient_checkpointing else block
            x = run(x, said.context, said.bias, said.modulation, grid[1])
        return self.finish(self.unpatch(x, said.embedded, grid), lr_features)

    def conditions(
        self, timestep: Tensor, tokens: Tensor | None, mask: Tensor | None, batch: int = 1
    ) -> Conditions:
        """Compute the conditioning that all blocks share; arguments are as in `forward`."""
        modulation, embedded = self.time_embed(timestep.expand(batch) * self.config.timestep_scale)
        given, given_mask = self._with_null_tokens(tokens, mask, batch)
        context: Tensor = self.caption_norm(self.caption_projection(given))
        return Conditions(context, _mask_bias(given_mask, context.dtype), modulation, embedded)

    def last_rows(self) -> Rows:
        """Return the output layers for rows: images joined with LR features -> (1, out_channels, n, w)."""
        if self.detail_head is not None:
            return self.detail_head.rows()
        channels = self.config.out_channels
        return PerPixel(lambda x: self.finish(x[:, :channels], x[:, channels:]))

    def finish(self, image: Tensor, lr_features: Tensor | None) -> Tensor:
        """Apply the output layers, which may see the LR features (B, lr_channels, h, w) again."""
        if self.detail_head is not None and lr_features is not None:
            detailed: Tensor = self.detail_head(image, lr_features)
            return detailed
        if self.lr_skip is None or lr_features is None:
            return image
        given = lr_features.to(self.lr_skip.weight.dtype, memory_format=torch.channels_last)
        skipped: Tensor = self.lr_skip(given)
        return image + skipped

    def unpatch(self, x: Tensor, embedded: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn the last block's tokens (B, h * w, C), on a `grid` or rows of it, into an image to finish."""
        patch = self.config.patch_size
        shift, scale = (self.scale_shift_table + embedded).chunk(2, dim=1)
        out = self.proj_out(modulated_norm(x, self.norm_out, shift, scale))
        out = out.reshape(len(x), *grid, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
        image: Tensor = out.reshape(len(x), -1, grid[0] * patch, grid[1] * patch)
        return image

    def embed(self, latent: Tensor, lr_features: Tensor | None) -> Tensor:
        """Embed latent and LR features (B, C, h, w), or rows of both, on joined channels as (B, N, C)."""
        channels = self.config.lr_channels
        given = None if lr_features is None else tuple(lr_features.shape)
        needed = (latent.shape[0], channels, *latent.shape[2:]) if channels else None
        if given != needed:
            raise ValueError(f"this network needs lr_features of shape {needed}, not {given}")
        # channels-last, like tokens: in this layout rows of an image give the same sums as all of it
        image = joined(latent) if lr_features is None else joined(latent, lr_features.to(latent.dtype))
        tokens: Tensor = self.patch_embed.get_submodule("proj")(image).flatten(2).transpose(1, 2)
        return tokens.to(self.scale_shift_table.dtype).contiguous()

    def _with_null_tokens(
        self, tokens: Tensor | None, mask: Tensor | None, batch: int
    ) -> tuple[Tensor, Tensor | None]:
        """Replace missing guidance by null tokens; return tokens (B, L, caption_channels) and mask."""
        count = self.config.num_null_tokens
        if tokens is None:
            if not count or mask is not None:
                raise ValueError("this call needs encoder_hidden_states (guidance tokens)")
            return self.null_tokens.expand(batch, -1, -1), None
        if mask is None or not count:
            return tokens, mask
        unguided = ~mask.bool().any(dim=1)
        padding = max(0, count - tokens.shape[1])
        tokens, mask = F.pad(tokens, (0, 0, 0, padding)), F.pad(mask.bool(), (0, padding))
        null = F.pad(self.null_tokens.to(tokens.dtype), (0, 0, 0, tokens.shape[1] - count))
        null_mask = torch.arange(tokens.shape[1], device=mask.device) < count
        return (
            torch.where(unguided[:, None, None], null, tokens),
            torch.where(unguided[:, None], null_mask, mask),
        )

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass: less memory, more time, the same gradients."""
        self.gradient_checkpointing = True

    def fuse_projections_(self) -> LinearSRTransformer:
        """Compute queries, keys and values of the self-attention in one product, and return the network.

        `save_pretrained` still writes the separate names, but the parameters are new objects: call this after
        loading and before creating an optimiser.
        """
        for block in cast(Iterable[TransformerBlock], self.transformer_blocks):
            block.attn1.fuse_()
        return self

    def with_detail(self, blocks: int) -> LinearSRTransformer:
        """Return a copy that ends in a new `DetailHead`, whose output is 0 until it is trained."""
        network = LinearSRTransformer(self.config.with_detail(blocks))
        kept = {
            name: weight
            for name, weight in self.state_dict().items()
            if not name.startswith(("proj_out.", "lr_skip.", "detail_head."))
        }
        network.load_state_dict(kept, strict=False)
        return network

    @classmethod
    def from_sana(
        cls,
        folder: StrPath,
        lr_channels: int = 0,
        num_null_tokens: int = 0,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        caption_channels: int | None = None,
    ) -> LinearSRTransformer:
        """Create a network from a SANA transformer in `diffusers` format.

        The LR inputs are added with zero weights. New null tokens start small and random, to be learned. So
        does the first layer for guidance tokens if `caption_channels` differs from the width of SANA's text
        (None: the same).

        Raises:
            CheckpointError: no SANA transformer in the folder, or a variant with parts that this network
                lacks.
        """
        path = resolve_folder(folder)
        config = config_from_sana(load_config(path), lr_channels, num_null_tokens, path, caption_channels)
        state = load_weights(path, device)
        if INPUT_WEIGHT in state:
            state[INPUT_WEIGHT] = F.pad(state[INPUT_WEIGHT], (0, 0, 0, 0, 0, lr_channels))
        weight = state.get(_CAPTION_WEIGHT)
        if caption_channels is not None and weight is not None and weight.shape[1] != caption_channels:
            state[_CAPTION_WEIGHT] = weight.new_empty(len(weight), caption_channels).normal_(std=0.02)
        if num_null_tokens:
            state["null_tokens"] = _fresh_tokens(num_null_tokens, config.caption_channels).to(device)
        if dtype is not None:
            state = {name: tensor.to(dtype) for name, tensor in state.items()}
        return cls.from_state(config, state, path)


def _fresh_tokens(count: int, channels: int) -> Tensor:
    return torch.empty(count, channels).normal_(std=channels**-0.5)


def _mask_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn a mask (B, L) of ones and zeros into a bias for attention scores, (B, 1, 1, L)."""
    return None if mask is None else ((1 - mask.to(dtype)) * MASKED)[:, None, None]
