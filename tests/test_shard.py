"""`linearsr shard`: crops are the photos' own pixels, and nothing that stops it or breaks a photo is hidden."""

import io
import re
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import done, linearsr, refused
from image_tools import noise, smooth_photo
from linearsr.images.photos import read_rgb
from linearsr.training import shards
from linearsr.training.data import CropPairs, DataConfig, check_data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub.d").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in [("a.png", (100, 70)), ("a.jpg", (64, 64)), ("sub.d/b.2.webp", (40, 150))]:
        smooth_photo(rng, size, (8, 9)).save(folder / name)
    Image.new("RGB", (32, 32), "grey").save(folder / "flat.png")
    return folder


shard = partial(linearsr, "shard", "--size", 32)


def members(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = read_rgb(io.BytesIO(tar.extractfile(member).read()))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_crops_are_the_pixels_of_the_photos(photos, tmp_path):
    result = done(shard(photos, "-o", tmp_path / "shards", "--photos-per-shard", 3))
    assert result.stderr == "16 crops of 4 photos\n"
    assert sorted(contents(tmp_path / "shards")) == ["00000.tar", "00001.tar", "index.json"]
    found = members(tmp_path / "shards")
    assert len(found) == 16
    origin = {"a_png": "a.png", "a_jpg": "a.jpg", "flat_png": "flat.png", "sub.d/b_2_webp": "sub.d/b.2.webp"}
    covered = {name: np.zeros(read_rgb(photos / name).shape[:2], dtype=int) for name in origin.values()}
    for name, pixels in found.items():
        key, left, top = re.fullmatch(r"(.+)@(\d+),(\d+)\.webp", name).groups()
        place = np.s_[int(top) : int(top) + 32, int(left) : int(left) + 32]
        assert np.array_equal(pixels, read_rgb(photos / origin[key])[place])
        covered[origin[key]][place] += 1
    # 100 pixels are nearest to three crops of 32, 64 are two, 150 are five, 40 are one
    assert [(covered[name] > 0).mean() for name in ("a.jpg", "flat.png")] == [1, 1]
    assert (covered["a.png"].any(axis=0).sum(), covered["a.png"].any(axis=1).sum()) == (96, 64)
    assert (covered["sub.d/b.2.webp"].max(), covered["sub.d/b.2.webp"].any(axis=0).sum()) == (2, 32)


def test_jpeg_crops_are_close(photos, tmp_path):
    lossless = members_of(photos, tmp_path / "webp")
    lossy = members_of(photos, tmp_path / "jpg", "--format", "jpg")
    assert list(lossy) == [name.replace(".webp", ".jpg") for name in lossless]
    for one, other in zip(lossless.values(), lossy.values(), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 3


@pytest.mark.parametrize("options", [[], ["--best-share", 0.9]])
def test_a_killed_run_resumes_to_the_same_bytes(photos, tmp_path, monkeypatch, options):
    options = ["--photos-per-shard", 1, *options]
    done(shard(photos, "-o", tmp_path / "whole", *options))
    write, score = shards.Sharder._write_shard, shards.Sharder._scores
    written: list[str] = []

    def killed(self, name, *rest):
        if len(written) == 2:
            (self.target / f".{name}.shard.part").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        written.append(name)
        return write(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(shards.Sharder, "_write_shard", killed)
        assert shard(photos, "-o", tmp_path / "again", *options).exit_code == 130
    assert len(list((tmp_path / "again").glob("*.tar"))) == 2
    # a shard that was finished, but is not yet in the index
    (tmp_path / "again/00002.tar").write_bytes(b"other bytes")
    scored: list[Path] = []
    monkeypatch.setattr(
        shards.Sharder, "_scores", lambda self, path: scored.append(path) or score(self, path)
    )
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "again").glob("0000[01].tar")}
    done(shard(photos, "-o", tmp_path / "again", *options))
    assert scored == []
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_broken_photos_are_named_each_time(photos, tmp_path):
    (photos / "bad.png").write_bytes(b"no image")
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:40])
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for _ in range(2):
        result = shard(photos, "-o", tmp_path / "shards")
        assert result.exit_code == 1
        assert [line.split(":")[0] for line in result.stderr.splitlines()[:-1]] == ["left out"] * 3
        for name in ("bad.png", "cut.png", "gone.png"):
            assert f"left out: {photos / name}: " in result.stderr
        assert result.stderr.endswith("16 crops of 4 photos, 3 broken photos left out\n")
    assert len(members(tmp_path / "shards")) == 16


def test_a_truncated_photo_is_read_as_far_as_it_goes(photos, tmp_path):
    """As `linearsr upscale` reads it."""
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:-200])
    noise(photos / "e.jpg", 80, 80)
    (photos / "e.jpg").write_bytes((photos / "e.jpg").read_bytes()[:-2])
    result = done(shard(photos, "-o", tmp_path / "shards", "--best-share", "0.9"))
    assert f"warning: {photos / 'cut.png'}: is truncated: the last" in result.stderr
    assert f"warning: {photos / 'e.jpg'}: is truncated: its end is missing" in result.stderr
    assert result.stderr.count("is truncated") == 2


def test_flat_crops_are_left_out(photos, tmp_path):
    everything = members_of(photos, tmp_path / "all")
    some = members_of(photos, tmp_path / "some", "--best-share", 0.93, "--photos-per-shard", 1)
    assert set(everything) - set(some) == {"flat_png@0,0.webp"}
    # a shard without crops is none, and the catalogue would refuse it
    assert len(list((tmp_path / "some").glob("*.tar"))) == 3
    half = members_of(photos, tmp_path / "half", "--best-share", 0.5)
    scores = {name: shards.detail_score(pixels) for name, pixels in everything.items()}
    assert set(half) == set(sorted(scores, key=scores.get)[-8:])


def members_of(photos: Path, target: Path, *options: object) -> dict[str, np.ndarray]:
    done(shard(photos, "-o", target, *options))
    return members(target)


def test_training_reads_the_shards(photos, tmp_path):
    crops = members_of(photos, tmp_path / "shards", "--photos-per-shard", 2)
    source = {"shards": {str(tmp_path / "shards"): 1.0}, "lr_crop": 8, "workers": 0}
    config = DataConfig.model_validate(source)
    assert (len(check_data(config, 4)), check_data(config, 4).skipped) == (16, [])
    pairs = CropPairs(config, 4, seed=1, length=8)
    known = {pixels.tobytes() for pixels in crops.values()}
    for sample in (pairs[number] for number in range(8)):
        hr = ((sample.hr.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        assert any(np.rot90(flip, k).tobytes() in known for flip in (hr, hr[:, ::-1]) for k in range(4))


def test_wrong_use_is_one_line(photos, tmp_path):
    out, full = tmp_path / "shards", tmp_path / "full"
    done(shard(photos, "-o", out))
    full.mkdir()
    (full / "mine.tar").touch()
    (tmp_path / "empty").mkdir()
    same = tmp_path / "same"
    same.mkdir()
    for name in ("a.b.png", "a_b.png"):
        Image.new("RGB", (32, 32)).save(same / name)
    before = contents(out)
    for arguments, message in [
        ([tmp_path / "none", "-o", out], "is not a folder: give a folder of HR photos"),
        ([tmp_path / "empty", "-o", tmp_path / "new"], "no images found"),
        ([photos, "-o", photos / "a.png"], "is a file, not a folder"),
        ([photos, "-o", full], "holds tar files without index.json"),
        ([photos, "-o", out, "--format", "jpg"], "shards made with other format: choose another folder"),
        ([photos / "sub.d", "-o", out], "shards made with other photos: choose another folder"),
        ([same, "-o", tmp_path / "new"], "would have the same names: rename one"),
    ]:
        assert message in refused(shard(*arguments))
    assert contents(out) == before
    (out / "index.json").write_text('{"shards": []}')
    assert "is not an index of shards" in shard(photos, "-o", out).stderr
    assert not (tmp_path / "new").exists()
