"""Parts of a model that use frozen encoders from `transformers`."""

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
    """A frozen network that is loaded when it is first used. Threads take turns.

    `read(dtype)` loads it on the CPU. Between uses it is kept where `residency` says: "all": on the device;
    "active": in CPU memory; "lazy": on disk, to be loaded again.
    """

    def __init__(self, read: Callable[[torch.dtype], nn.Module], residency: Residency = "all") -> None:
        self.residency: Residency = residency
        self._read = read
        self._network: nn.Module | None = None
        self._dtype: torch.dtype | None = None
        self._lock = threading.RLock()

    @contextmanager
    def on(self, device: torch.device, dtype: torch.dtype) -> Iterator[Any]:
        """Yield the network on `device` with its weights in `dtype`; gradients are off within the context."""
        # outside inference_mode, because weights loaded in it could not be moved later
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
    """A part that is only a config: its weights are encoders in folders that the config names.

    Such a folder is inside the model (`text_encoder`, as in SANA's models), elsewhere on disk, or on the hub:
    `owner/name`, or `owner/name/folder` inside a repository. An encoder is loaded when it is first used. A
    subclass loads it in `read_encoder` and uses it by `with self.encoder() as encoder`.
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
        # an empty tensor that is moved with the part, and so tells its device and dtype
        self.register_buffer("place", torch.empty(0), persistent=False)

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """Load the encoder on the CPU.

        Raises CheckpointError if it is missing, damaged or does not fit the config.
        """
        raise NotImplementedError

    def encoder(self) -> Any:
        """Return a context in which the encoder is on the part's device and gradients are off."""
        return self.waiting.on(self.device, self.encoder_dtype)

    def remembered(
        self, keys: Sequence[_Key], make: Callable[[list[_Key]], Iterable[Tensor]]
    ) -> list[Tensor]:
        """Return the answer for each key; threads may share the part.

        `make` computes the answers for keys that are not among the last `most_remembered`.
        """
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
        """The device on which the encoder works."""
        return self.get_buffer("place").device

    @property
    def encoder_dtype(self) -> torch.dtype:
        """The dtype to which the part was moved, but never float16, in which Gemma overflows."""
        dtype = self.get_buffer("place").dtype
        return best_dtype(self.device) if dtype == torch.float16 else dtype

    def folder(self, field: str) -> Path:
        """Return the folder that a field of the config names. Raises CheckpointError if there is none."""
        name = getattr(self.config, field)
        with prefixed(f"{type(self).__name__}, {field}: ", CheckpointError, CheckpointError):
            return encoder_folder(name, self.model_folder)

    def encoder_files(self) -> list[Path]:
        """Return the weight files of its encoders, as far as they are in folders on this machine."""
        names = [getattr(self.config, field) for field in self.folder_fields]
        folders = dict.fromkeys(_inside(name, self.model_folder) or Path(name) for name in names if name)
        return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]

    def identity(self) -> str:
        """Return a text that identifies it: its config, and the beginnings of its encoders' files."""
        found = [json.dumps(asdict(self.config))]
        for file in self.encoder_files():
            with file.open("rb") as weights:
                found.append(f"{file.stat().st_size} {blake2b(weights.read(_BEGINNING)).hexdigest()}")
        return " ".join(found)

    def check_folders(self) -> None:
        """Raises CheckpointError if a folder is missing, unless it may be on the hub. Downloads nothing."""
        for field in self.folder_fields:
            name = getattr(self.config, field)
            if name and not _ON_HUB.fullmatch(name):
                self.folder(field)

    def prepare(self) -> None:
        """Load the encoder now, so that errors show early. Raises as `read_encoder`."""
        with self.encoder():
            pass

    def save_pretrained(self, folder: str | PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write the config, and beside `folder` unchanged copies of the encoders inside the model."""
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
        """Load the part whose config is in `folder`; encoders inside the model are beside it.

        Raises CheckpointError if there is no such config, or a folder that it names is missing.
        """
        path = resolve_folder(folder)
        part = cls(cls.parse_config(load_config(path), path / CONFIG_NAME))
        part.model_folder = path.absolute().parent
        part.check_folders()
        return part.eval().to(device=device, dtype=dtype)


def encoder_folder(name: str, model_folder: Path | None = None) -> Path:
    """Return the folder that a config calls `name`; see `EncoderPart`. Raises CheckpointError if missing."""
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
    """Load the network of this class of `transformers` from `folder`, with all its weights.

    Raises ImportError if `transformers` is not installed; CheckpointError, one line, if it lacks this class
    or cannot read the folder, or if tokens are not as wide as those that the model was trained with.
    """
    options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    read, report = _from_transformers(what, folder, class_name, **options)
    network: nn.Module = read
    # transformers would continue with random weights
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: {what} lacks {len(missing)} tensors, such as {missing[0]}; get a new copy"
        )
    if width is not None and (found := read.config.hidden_size) != width:
        raise CheckpointError(
            f"{folder}: this encoder's tokens have {found} channels and the model's {width}: "
            "use the encoder that the model was trained with"
        )
    return network


def read_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`. Raises as `read_network`."""
    return _from_transformers("the tokenizer", folder, "AutoTokenizer")


def _from_transformers(what: str, folder: Path, class_name: str, **options: Any) -> Any:
    """Load from `transformers` without output on the console."""
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
    """Return the folder of that name inside the model, if any. A name cannot lead out of the model."""
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
