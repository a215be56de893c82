"""Training data: what a sample depends on, where photos come from, and what becomes of broken ones."""

import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from bulk_tools import tar_of
from image_tools import cut_short, smooth_photo
from linearsr.cli.app import app
from linearsr.images.photos import read_rgb
from linearsr.images.picture import quantise
from linearsr.images.reading import read_image
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.lr_stem import LRCondition
from linearsr.training.config import TrainConfig
from linearsr.training.data import CropPairs, Sample, check_data
from linearsr.training.recipe import Run
from linearsr.training.section import ConfigError
from linearsr.training.trainer import Trainer
from training_tools import data_config, described, make_sana, settings


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, suffix in enumerate(["png", "jpg", "webp"]):
        smooth_photo(i, (56, 48)).save(folder / f"{i}.{suffix}")
    return folder


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(tar_of(members))
    return path


def samples(pairs: CropPairs, workers: int = 0) -> Sample:
    batches = DataLoader(pairs, batch_size=2, num_workers=workers)
    return Sample(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def same(first: Sample, second: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_sample_depends_on_seed_and_index_alone(photos: Path) -> None:
    one, two = (CropPairs(data_config(photos), 4, seed=5, length=n) for n in (3, 100))
    other = CropPairs(data_config(photos), 4, seed=6, length=3)
    assert same(one[2], two[2])
    assert not torch.equal(one[2][1], other[2][1])
    lr, hr, tags, number, latent = one[1]
    assert (lr.shape, hr.shape, tags.shape, number, latent.shape) == ((3, 8, 8), (3, 32, 32), (0,), 1, (0,))
    assert -1 <= hr.min() < hr.max() <= 1


def test_workers_change_nothing(photos: Path) -> None:
    workers = 2
    alone = samples(CropPairs(data_config(photos), 4, seed=5, length=8))
    assert same(samples(CropPairs(data_config(photos, workers=workers), 4, seed=5, length=8), workers), alone)
    assert alone.number.tolist() == list(range(8))


def test_the_device_degrades_each_sample_by_itself(photos: Path) -> None:
    mix = {"bicubic": 1, "mild": 1, "realesrgan": 1}
    pairs = CropPairs(data_config(photos, degrade_on="device", degradations=mix), 4, seed=5, length=8)
    batch = samples(pairs)
    assert batch[0].numel() == 0
    together = pairs.complete(batch)
    alone = torch.cat([pairs.complete(Sample(*(part[i : i + 1] for part in batch))) for i in range(8)])
    assert together.shape == (8, 3, 8, 8)
    assert torch.equal(together, alone)
    assert -1 <= together.min() < together.max() <= 1
    by_workers = CropPairs(data_config(photos, degradations=mix), 4, seed=5, length=8)
    made = samples(by_workers)
    assert torch.equal(made[1], batch[1])
    assert by_workers.complete(made) is made.lr


def test_shards_are_folders_in_another_wrapping(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.iterdir())
    first = {f"set.1/{file.name}": file.read_bytes() for file in files[:2]}
    # the first image of a key is its photo; other members of the sample are not looked at
    first["set.1/1.seg.png"] = b"of the sample 1"
    first["set.1/1.json"] = b"{}"
    shard(tmp_path / "s-000.tar", first)
    shard(tmp_path / "s-001.tar", {files[2].name: files[2].read_bytes()})
    expected = samples(CropPairs(data_config(photos), 4, seed=5, length=6))
    for pattern in (f"{tmp_path}/s-{{000..001}}.tar", f"{tmp_path}/s-*.tar", str(tmp_path)):
        pairs = CropPairs(data_config(shards={pattern: 2.0}), 4, seed=5, length=6)
        assert same(samples(pairs, workers=2), expected)
    assert len(check_data(data_config(photos, shards={str(tmp_path): 1.0}), 4)) == 6


def test_weights_are_shares_of_pixels(tmp_path: Path) -> None:
    colours = {"a": (0, 0, 0), "b": (255, 255, 255)}
    for name, colour in colours.items():
        (tmp_path / name).mkdir()
        # one large photo and many small ones have the same chance at the same weight
        for i in range(1 if name == "a" else 4):
            size = (64, 64) if name == "a" else (32, 32)
            Image.new("RGB", size, colour).save(tmp_path / name / f"{i}.png")
    folders = {tmp_path / "a": 1.0, tmp_path / "b": 3.0}
    pairs = CropPairs(data_config(folders=folders, degradations={"bicubic": 1}), 4, seed=0, length=400)
    white = np.mean([float(pairs[i][1].mean()) > 0 for i in range(400)])
    assert white == pytest.approx(0.75, abs=0.06)


def test_broken_headers_are_skipped_and_named(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "bad.png").write_bytes(b"no image")
    (photos / "empty.jpg").touch()
    smooth_photo(0, (20, 90)).save(photos / "small.png")
    catalogue = check_data(data_config(photos), 4)
    assert (len(catalogue), catalogue.areas.sum(), catalogue.too_small) == (3, 3 * 56 * 48, 1)
    assert [Path(skipped.name).name for skipped in catalogue.skipped] == ["bad.png", "empty.jpg"]
    assert all(skipped.name in skipped.reason for skipped in catalogue.skipped)
    assert len(caplog.records) == 2


def test_a_broken_shard_keeps_what_comes_before(photos: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {file.name: file.read_bytes() for file in sorted(photos.iterdir())})
    path.write_bytes(path.read_bytes()[:-11000])
    catalogue = check_data(data_config(shards={str(path): 1.0}), 4)
    assert 0 < len(catalogue) < 3
    assert "is a broken shard from here on" in catalogue.skipped[-1].reason


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_broken_behind_its_header_is_replaced(
    photos: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = samples(CropPairs(data_config(photos), 4, seed=5, length=12))
    cut_short(photos / "0.png")
    pairs = CropPairs(data_config(photos, workers=workers), 4, seed=5, length=12)
    found = samples(pairs, workers)
    kept = [torch.equal(a, b) for a, b in zip(whole[1], found[1], strict=True)]
    assert 3 < sum(kept) < 12
    assert same(found, samples(CropPairs(data_config(photos), 4, seed=5, length=12)))
    if workers == 0:
        assert sum("0.png" in record.message for record in caplog.records) == 2  # once for each dataset


def test_nothing_but_broken_photos_stops(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for path in photos.iterdir():
        cut_short(path)
    with pytest.raises(ConfigError, match=r"data\.folders: 50 photos drawn in a row are broken"):
        CropPairs(data_config(photos), 4, 0, 1)[0]


def test_the_cache_keeps_its_limit(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []

    def counted(source: Path) -> np.ndarray:
        reads.append(source)
        return read_rgb(source)

    monkeypatch.setattr("linearsr.training.catalogue.read_rgb", counted)
    size = 56 * 48 * 3
    for photos_kept, expected in [(3, 3), (2, 4), (0, 6)]:
        reads.clear()
        pairs = CropPairs(data_config(photos, cache_gib=(photos_kept + 0.1) * size / 2**30), 4, 0, 1)
        for number in (0, 1, 2, 1, 2, 0):
            assert pairs.cache[number].shape == (48, 56, 3)
            assert pairs.cache.bytes <= photos_kept * size
        assert len(reads) == expected, photos_kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folders": {"{tmp}/none": 1}}, "data.folders: .*none: is not a folder"),
        ({"folders": {"{tmp}/empty": 1}}, "data.folders: .*empty: no images found"),
        (
            {"folders": {"{tmp}/tars": 1}},
            r"data.folders: .*tars: no images found: .* \(tar files belong in data.shards",
        ),
        ({"folders": {"{tmp}/small": 1}}, "data.folders: every photo is smaller than the HR crop of 32 px"),
        ({"folders": {"{tmp}/bad": 1}}, "data.folders: all 1 files are broken, e.g. .*bad.png"),
        ({"folders": {}, "shards": {"{tmp}/x-{0..1}.tar": 1}}, "data.shards: .*x-0.tar does not exist"),
        ({"folders": {}, "shards": {"{tmp}/x-*.tar": 1}}, "data.shards: .*no tar files found"),
        ({"folders": {}, "shards": {"{tmp}/small": 1}}, "data.shards: .*no tar files found"),
        ({"folders": {}, "shards": {"{tmp}/void.tar": 1}}, "data.shards: .*no images in it"),
        ({"folders": {}, "shards": {"{tmp}/gz.tar": 1}}, "data.shards: .*uncompressed"),
    ],
)
def test_unusable_sources_are_one_line(
    changes: dict[str, dict[str, int]], message: str, tmp_path: Path
) -> None:
    for name in ("empty", "small", "bad", "tars"):
        (tmp_path / name).mkdir()
    (tmp_path / "tars/0.tar").touch()
    smooth_photo(0, (20, 20)).save(tmp_path / "small" / "a.png")
    (tmp_path / "bad" / "bad.png").write_bytes(b"no image")
    shard(tmp_path / "void.tar", {"a.json": b"{}"})
    with tarfile.open(tmp_path / "gz.tar", "w:gz") as tar:
        tar.add(tmp_path / "small" / "a.png", "a.png")
    placed = {
        key: {name.replace("{tmp}", str(tmp_path)): weight for name, weight in sources.items()}
        for key, sources in changes.items()
    }
    with pytest.raises(ConfigError, match=message) as caught:
        check_data(data_config(**placed), 4)
    assert "\n" not in str(caught.value)


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one of folders and shards"):
        data_config()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_photos_are_read_as_pictures_are(mode: str, orientation: int, tmp_path: Path) -> None:
    """The short way for JPEG photos gives what the long way gives."""
    path = tmp_path / f"a.{'jpg' if mode in {'RGB', 'L', 'CMYK'} else 'png'}"
    image = smooth_photo(0, (56, 48))
    image = (image.convert("L") if mode == "I;16" else image).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    colour = quantise(read_image(path).colour, None, bits=8)
    read = read_rgb(path)
    assert read.shape == ((56, 48, 3) if orientation == 6 else (48, 56, 3))
    assert (read == colour).all()


def test_training_reads_the_latents_that_are_beside_crops(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, autoencoder = tmp_path / "shards", make_sana(tmp_path / "sana") / "vae"
    asked = ["shard", str(photos), "-o", str(target), "--size", "32", "--format", "jpg"]
    made = CliRunner().invoke(app, [*asked, "--latents", str(autoencoder)])
    assert made.exit_code == 0, made.stderr
    assert "made with other latents: choose" in CliRunner().invoke(app, asked).stderr
    wrong = CliRunner().invoke(app, [*asked, "--latents", str(photos)])
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1), wrong.stderr
    wrong = CliRunner().invoke(app, [*asked, "--latents", str(autoencoder), "--size", "36"])
    assert wrong.stderr == "linearsr: crops of 36 px have no latents: give a multiple of 8\n"

    codec = DeepCompressionCodec.from_pretrained(autoencoder)
    source = data_config(shards={str(target): 1.0})
    pairs = CropPairs(source, 4, seed=1, length=8, latents=True)
    for sample in (pairs[number] for number in range(8)):
        with torch.no_grad():
            latent = codec.encode(sample.hr[None], LRCondition(sample.lr))[0]
        # they may be made in bfloat16
        assert (sample.latent - latent).abs().mean() < 0.02 * latent.abs().mean()
    # what is cut out of a crop has other latents
    assert CropPairs(source, 2, seed=1, length=8, latents=True)[0].latent.numel() == 0

    stage = {"kind": "flow", "codec": str(autoencoder), "preset": "tiny"}
    run = TrainConfig(**settings(photos, tmp_path / "run", stage=stage, data=source))
    assert described([Run("run", run)])["run"]["data"].endswith("; latents from the shards")
    seen: list[torch.Size] = []
    encode = DeepCompressionCodec.encode

    def noted(self: DeepCompressionCodec, image: torch.Tensor, condition: LRCondition) -> torch.Tensor:
        seen.append(image.shape)
        return encode(self, image, condition)

    monkeypatch.setattr(DeepCompressionCodec, "encode", noted)
    Trainer(run).run()
    assert seen.count(torch.Size([2, 3, 32, 32])) == 1  # to see that they are of the same codec
    with torch.no_grad():
        next(codec.autoencoder.encoder.parameters()).mul_(-1)
    codec.save_pretrained(autoencoder)
    narrow = lambda self, image, condition: encode(self, image, condition)[:, :1]  # noqa: E731
    for number, other in enumerate((encode, narrow)):
        monkeypatch.setattr(DeepCompressionCodec, "encode", other)
        with pytest.raises(
            ConfigError, match=r"^data\.shards: their latents are of another codec than the stage's"
        ):
            Trainer(run.model_copy(update={"run_dir": tmp_path / f"other{number}"})).run()
