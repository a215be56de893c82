"""Parts of a model that work through frozen encoders of `transformers`."""

import json
import re
import shutil
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from linearsr.flow import Residency
from linearsr.runtime.checkpoints import (
    CONFIG_NAME,
    HUB_ID,
    WEIGHTS_AND_VOCABULARIES,
    CheckpointError,
    PretrainedModule,
    load_config,
    resolve_folder,
    write_json,
)
from linearsr.runtime.devices import best_dtype
from linearsr.runtime.files import prefixed

_IN_REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w.-]+)/([\w./-]+)")
_ON_HUB = re.compile(rf"{HUB_ID.pattern}|{_IN_REPOSITORY.pattern}")
_BEGINNING = 2**20
_Key = TypeVar("_Key", bound=Hashable)
_Self = TypeVar("_Self", bound="EncoderPart")


class WaitingEncoder:
    """A frozen network that is read when it is first used. Threads take turns.

    `read(dtype)` makes it, on the CPU. Between uses it stays where `residency` says: "all": on the device; "active":
    in CPU memory; "lazy": on disk, to be read again.
    """

    def __init__(self, read: Callable[[torch.dtype], nn.Module], residency: Residency = "all") -> None:
        self.residency: Residency = residency
        self._read = read
        self._network: nn.Module | None = None
        self._dtype: torch.dtype | None = None
        self._lock = threading.RLock()

    @contextmanager
    def on(self, device: torch.device, dtype: torch.dtype) -> Iterator[Any]:
        """The network on `device`, its weights in `dtype`; there are no gradients while the context lasts."""
        # weights read under inference_mode could not be moved outside it
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if self._network is None or self._dtype != dtype:
                self._network, self._dtype = self._read(dtype).eval().requires_grad_(False), dtype
            network = self._network.to(device)
            try:
                yield network
            finally:
                if self.residency == "active":
                    network.to("cpu")
                elif self.residency == "lazy":
                    self._network = None


class EncoderPart(PretrainedModule):
    """A part that is a config alone: its weights are encoders in folders that the config names.

    Such a folder is one inside the model (`text_encoder`, as in SANA's models), any other one, or on the hub:
    `owner/name`, or `owner/name/folder` inside a repository. An encoder is read when it is first used. A subclass says
    how, in `read_encoder`, and uses it by `with self.encoder() as encoder`.
    """

    folder_fields: ClassVar[tuple[str, ...]]
    """The fields of the config that name folders."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.model_folder: Path | None = None
        self.waiting = WaitingEncoder(self.read_encoder)
        self.most_remembered = 32
        self._recent: dict[Hashable, Tensor] = {}
        self._lock = threading.Lock()
        # holds nothing, but goes wherever the part is moved
        self.register_buffer("place", torch.empty(0), persistent=False)

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """The encoder on the CPU. Raises CheckpointError where it is missing, damaged or does not fit the config."""
        raise NotImplementedError

    def encoder(self) -> Any:
        """A context in which the encoder is on the part's device, and there are no gradients."""
        return self.waiting.on(self.device, self.encoder_dtype)

    def remembered(
        self, keys: Sequence[_Key], make: Callable[[list[_Key]], Iterable[Tensor]]
    ) -> list[Tensor]:
        """The answer for each key; `make` gives those not among the last `most_remembered`. Threads may share it."""
        place = self.device, self.encoder_dtype
        with self._lock:
            known = {
                key: self._recent.pop((key, *place)) for key in set(keys) if (key, *place) in self._recent
            }
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if missing:
            known |= zip(missing, make(missing), strict=True)
        with self._lock:
            self._recent |= {(key, *place): known[key] for key in keys}
            while len(self._recent) > self.most_remembered:
                del self._recent[next(iter(self._recent))]
        return [known[key] for key in keys]

    @property
    def device(self) -> torch.device:
        """Where the encoder works."""
        return self.get_buffer("place").device

    @property
    def encoder_dtype(self) -> torch.dtype:
        """As the part was moved, but never float16, in which Gemma overflows."""
        dtype = self.get_buffer("place").dtype
        return best_dtype(self.device) if dtype == torch.float16 else dtype

    def folder(self, field: str) -> Path:
        """The folder that a field of the config names. Raises CheckpointError where there is none."""
        name = getattr(self.config, field)
        with prefixed(f"{type(self).__name__}, {field}: ", CheckpointError, CheckpointError):
            return encoder_folder(name, self.model_folder)

    def encoder_files(self) -> list[Path]:
        """The weights of its encoders, as far as they lie in folders on this machine."""
        names = [getattr(self.config, field) for field in self.folder_fields]
        folders = dict.fromkeys(_inside(name, self.model_folder) or Path(name) for name in names if name)
        return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]

    def identity(self) -> str:
        """What tells it from others: its config, and the beginnings of the files of its encoders."""
        found = [json.dumps(asdict(self.config))]
        for file in self.encoder_files():
            with file.open("rb") as weights:
                found.append(f"{file.stat().st_size} {blake2b(weights.read(_BEGINNING)).hexdigest()}")
        return " ".join(found)

    def check_folders(self) -> None:
        """Raises CheckpointError for a folder that is missing, unless it may be on the hub: nothing is downloaded."""
        for field in self.folder_fields:
            name = getattr(self.config, field)
            if name and not _ON_HUB.fullmatch(name):
                self.folder(field)

    def prepare(self) -> None:
        """Read the encoder now, so that what is wrong with it shows. Raises as `read_encoder`."""
        with self.encoder():
            pass

    def save_pretrained(self, folder: str | PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write the config, and beside `folder` copies of the encoders that lie inside the model, as they are."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for field in self.folder_fields:
            name = getattr(self.config, field)
            inside = _inside(name, self.model_folder)
            if inside is not None:
                _copy(inside, folder.parent / name)
        write_json(folder / CONFIG_NAME, {"_class_name": type(self).__name__, **asdict(self.config)})

    @classmethod
    def from_pretrained(
        cls: type[_Self],
        folder: str | PathLike[str],
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> _Self:
        """The part whose config is in `folder`, encoders beside it. Raises CheckpointError for no such config."""
        path = resolve_folder(folder)
        part = cls(cls.parse_config(load_config(path), path / CONFIG_NAME))
        part.model_folder = path.absolute().parent
        part.check_folders()
        return part.eval().to(device=device, dtype=dtype)


def encoder_folder(name: str, model_folder: Path | None = None) -> Path:
    """The folder that a config means by `name`; see `EncoderPart`. Raises CheckpointError where there is none."""
    inside = _inside(name, model_folder)
    if inside is not None:
        return inside
    in_repository = _IN_REPOSITORY.fullmatch(name)
    if in_repository and not Path(name).exists():
        repository, part = in_repository.groups()
        return resolve_folder(repository, parts=[part]) / part
    return resolve_folder(name)


def read_network(
    what: str, folder: Path, class_name: str, dtype: torch.dtype, width: int | None = None
) -> nn.Module:
    """The network of this class of `transformers` in `folder`, with all its weights.

    Raises ImportError if `transformers` is not installed, or too old for this class; CheckpointError, one line, if it
    cannot read the folder, or its tokens are not as wide as those that the model was trained with.
    """
    options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    read, report = _from_transformers(what, folder, class_name, **options)
    network: nn.Module = read
    # it would go on with random weights
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: {what} lacks {len(missing)} tensors, such as {missing[0]}; get a new copy"
        )
    if width is not None and (found := read.config.hidden_size) != width:
        raise CheckpointError(
            f"{folder}: this encoder's tokens have {found} channels and the model's {width}: "
            "take the encoder that the model was trained with"
        )
    return network


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`. Raises as `read_network`."""
    return _from_transformers("the tokenizer", folder, "AutoTokenizer")


def _from_transformers(what: str, folder: Path, class_name: str, **options: Any) -> Any:
    """Read without a word on the console."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{what} needs transformers: pip install 'linearsr[full]'") from error
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        return getattr(transformers, class_name).from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{folder}: {what} cannot be read: {reason}") from error
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _inside(name: str, model_folder: Path | None) -> Path | None:
    """The folder of that name in the model, if there is one. A name cannot lead out of the model."""
    path = Path(name)
    if not name or model_folder is None or path.is_absolute() or ".." in path.parts:
        return None
    return model_folder / path if (model_folder / path).is_dir() else None


def _copy(source: Path, target: Path) -> None:
    if source.resolve() == target.resolve():
        return
    target.mkdir(parents=True, exist_ok=True)
    for pattern in WEIGHTS_AND_VOCABULARIES:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
