"""Shapes of the parts of a run before there are any: from its config, from folders, and from the runs that come first.

No weights are read and nothing is downloaded; what only the hub knows is None.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import gcd, lcm, log2
from pathlib import Path
from typing import Any

from linearsr.models.codec import CODECS, ResidualCodec, ResidualCodecConfig
from linearsr.models.lr_stem import (
    STEMS,
    PredictiveStem,
    PredictiveStemConfig,
    StridedStem,
    StridedStemConfig,
    grown_config,
)
from linearsr.models.presets import PRESETS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.runtime.checkpoints import CONFIG_NAME, CheckpointError, class_in, load_config
from linearsr.training.codec import CodecStage
from linearsr.training.config import TrainConfig
from linearsr.training.flow import FlowStage
from linearsr.training.section import ConfigError
from linearsr.training.stem import StemStage
from linearsr.training.tagger import TaggerObjective, TaggerStage

Stage = CodecStage | StemStage | FlowStage | TaggerStage
StemShape = PredictiveStemConfig | StridedStemConfig

_SCALE = 4


@dataclass(frozen=True)
class CodecShape:
    """A codec's latents, and what makes them."""

    compression: int
    """HR pixels per side of one latent position."""
    channels: int
    autoencoder: Mapping[str, Any] | None = None
    """Arguments of `AutoencoderDC`; None: the residual codec, which has no weights."""


DC_AE = CodecShape(32, 32, {})
"""That of the published SANA models, and what `AutoencoderDC` is by default."""


class Shapes:
    """Shapes of the parts of some runs. What is asked raises ConfigError where a folder does not hold that part.

    Args:
        configs: of the runs: a folder that is not there yet may be one that they still write.
    """

    def __init__(self, configs: Iterable[TrainConfig]) -> None:
        self._makers: dict[Path, Stage] = {config.run_dir: config.stage for config in configs}

    def transformer(self, stage: FlowStage) -> TransformerConfig | None:
        """The network of a stage; one from SANA is taken to be of its preset's size, and to fit its codec."""
        if stage.init is None:
            network = replace(PRESETS[stage.preset], **stage.network)
            codec = self.codec(stage) if stage.sana is not None else None
            if codec is None:
                return network
            return replace(network, in_channels=codec.channels, out_channels=codec.channels)
        if stage.init.is_dir():
            with _naming("stage.init"):
                raw, where = load_config(stage.init), stage.init / CONFIG_NAME
                found: TransformerConfig = LinearSRTransformer.parse_config(raw, where)
                return found.with_detail(stage.detail_blocks) if stage.detail_blocks else found
        maker = self._maker(stage.init)
        made = self.transformer(maker) if isinstance(maker, FlowStage) else None
        return made.with_detail(stage.detail_blocks) if made is not None and stage.detail_blocks else made

    def stem(self, stage: StemStage | FlowStage) -> StemShape | None:
        """The LR stem: the one to be trained, the frozen one, or the one that is trained along."""
        if isinstance(stage, StemStage):
            return self._trained_stem(stage)
        if stage.stem is None:
            return self._new_stem(stage)
        if stage.stem.is_dir():
            with _naming("stage.stem"):
                return _stem_in(stage.stem, STEMS)
        maker = self._maker(stage.stem)
        return self.stem(maker) if isinstance(maker, StemStage | FlowStage) else None

    def _trained_stem(self, stage: StemStage) -> PredictiveStemConfig | None:
        if stage.init is None:
            return PredictiveStemConfig(**stage.stem)
        if stage.init.is_dir():
            with _naming("stage.init"):
                start: StemShape | None = _stem_in(stage.init, {PredictiveStem.__name__: PredictiveStem})
        else:
            maker = self._maker(stage.init)
            start = self.stem(maker) if isinstance(maker, StemStage) else None
        if not isinstance(start, PredictiveStemConfig):
            return None
        try:
            return grown_config(start, **stage.stem)
        except ValueError as error:
            raise ConfigError(f"stage.stem: {error}") from None

    def _new_stem(self, stage: FlowStage) -> StridedStemConfig | None:
        codec, network = self.codec(stage), self.transformer(stage)
        if codec is None or network is None:
            return None
        return StridedStemConfig(_SCALE, network.lr_channels, round(log2(codec.compression / _SCALE)))

    def codec(self, stage: CodecStage | FlowStage) -> CodecShape | None:
        """The codec to be trained, or the frozen one."""
        if isinstance(stage, CodecStage):
            folder, key = Path(stage.init) if stage.init is not None else None, "stage.init"
        elif stage.codec is None and stage.sana is not None:
            folder, key = Path(stage.sana) / "vae", "stage.sana"
        else:
            folder, key = stage.codec, "stage.codec"
        if folder is None:
            return _autoencoder(stage.autoencoder) if isinstance(stage, CodecStage) else _residual()
        if folder.is_dir():
            with _naming(key):
                return _codec_in(folder)
        maker = self._maker(folder)
        if isinstance(maker, CodecStage):
            return self.codec(maker)
        return DC_AE if key == "stage.sana" else None

    def scale(self, stage: Stage) -> int:
        """HR size over LR size."""
        if isinstance(stage, CodecStage):
            return stage.scale
        if isinstance(stage, TaggerStage):
            return TaggerObjective.scale
        stem = self.stem(stage)
        return _SCALE if stem is None else stem.scale

    def multiple_of(self, stage: Stage) -> int:
        """What LR sides must be multiples of, as far as it is known."""
        stem = self.stem(stage) if isinstance(stage, StemStage | FlowStage) else None
        codec = self.codec(stage) if isinstance(stage, CodecStage | FlowStage) else None
        network = self.transformer(stage) if isinstance(stage, FlowStage) else None
        hr_multiple = (codec.compression if codec else 1) * (network.patch_size if network else 1)
        return lcm(stem_stride(stem) if stem else 1, hr_multiple // gcd(hr_multiple, self.scale(stage)))

    def _maker(self, folder: Path) -> Stage | None:
        """The stage of the run that writes `folder`, which is RUN_DIR/knee/PART."""
        return next((stage for run_dir, stage in self._makers.items() if run_dir in folder.parents), None)


def stem_stride(stem: StemShape) -> int:
    """LR pixels per side of one position of a stem's features."""
    return stem.patch if isinstance(stem, PredictiveStemConfig) else 2**stem.num_layers


def stem_channels(stem: StemShape) -> int:
    """Channels of a stem's features."""
    return stem.channels * (stem.patch**2 if isinstance(stem, PredictiveStemConfig) else 1)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise ConfigError(f"{key}: {error}") from None


def _stem_in(folder: Path, kinds: Mapping[str, type[PredictiveStem] | type[StridedStem]]) -> StemShape:
    kind, raw = class_in(folder, kinds, "a stem")
    stem: StemShape = kind.parse_config(raw, folder / CONFIG_NAME)
    return stem


def _codec_in(folder: Path) -> CodecShape:
    kind, raw = class_in(folder, CODECS, "a codec")
    if kind is ResidualCodec:
        return _residual(ResidualCodec.parse_config(raw, folder / CONFIG_NAME))
    return _autoencoder({key: value for key, value in raw.items() if not key.startswith("_")})


def _residual(config: ResidualCodecConfig | None = None) -> CodecShape:
    compression = (config or ResidualCodecConfig()).compression
    return CodecShape(compression, 3 * compression**2)


def _autoencoder(settings: Mapping[str, Any]) -> CodecShape:
    blocks = settings.get("encoder_block_out_channels")
    compression = 2 ** (len(blocks) - 1) if isinstance(blocks, Sequence) else DC_AE.compression
    return CodecShape(compression, settings.get("latent_channels", DC_AE.channels), settings)
