"""Two processes on the CPU (gloo) train as one does at the same global batch: DDP, FSDP2, and from one to the other."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml

from linearsr.cli.app import app
from linearsr.training.config import TrainConfig
from linearsr.training.processes import start
from linearsr.training.section import ConfigError
from linearsr.training.trainer import Trainer
from training_tools import flow_stage, losses, read_records, settings, weights

BIN = Path(sys.executable).parent
TORCHRUN = [BIN / "torchrun", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [BIN / "accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
"""Of CPU processes `accelerate launch --cpu` starts only one; where there is no GPU, this one takes CPUs too."""
TRAIN = ["-m", "linearsr.cli.app", "train"]

# against a hang only: on a core shared with other work, a launch of the 40 s test below once took more than 120 s
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("one_thread", "on_cpus")]
_LAUNCH_TIMEOUT = 300


@pytest.fixture
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def four_a_step(photos: Path, run_dir: Path, **changes: object) -> dict[str, object]:
    """Ten steps of four images, with three photos to validate on: an odd number for two processes."""
    lengths = {"batch_size": 4, "total_images": 40, "save_every_images": 16}
    validation = {
        "folder": str(photos),
        "every_images": 16,
        "max_pictures": 3,
        "degradations": ["bicubic"],
    }
    steady = {"lr": 1e-3, "final_lr": 1e-3, "warmup_images": 8}
    base = {**settings(photos, run_dir), **lengths, "validation": validation, "optimizer": steady}
    return {**base, **changes}


def train_here(config: dict[str, object]) -> None:
    trainer = Trainer(TrainConfig(**config))
    trainer.resume()
    trainer.run()


def launch(command: list[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, timeout=_LAUNCH_TIMEOUT
    )


def written(path: Path, config: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def files(folder: Path) -> set[Path]:
    """All but those of TensorBoard, and the parts of checkpoints, of which each process writes its own."""
    found = {path.relative_to(folder) for path in folder.rglob("*")}
    return {path for path in found if "tfevents" not in path.name and not path.match("shard-*")}


def writers(run_dir: Path) -> set[str]:
    """Who wrote tensors of the checkpoints of a run."""
    return {path.name[:11] for path in (run_dir / "checkpoints").rglob("shard-*")}


def assert_alike(run_dir: Path, expected_dir: Path, part: str, rel: float = 1e-4) -> None:
    """The same figures at the same moments, and the same weights."""
    expected, found = read_records(expected_dir), read_records(run_dir)
    assert [record.keys() for record in found] == [record.keys() for record in expected]
    for one, two in zip(expected, found, strict=True):
        assert two["images"] == one["images"]
        for name in one.keys() - {"images", "images_per_second", "grad_norm", "event", "skipped"}:
            assert two[name] == pytest.approx(one[name], rel=rel, abs=rel / 10), (name, one["images"])
    one, two = (weights(folder / "knee" / part) for folder in (expected_dir, run_dir))
    for name, tensor in one.items():
        # a variance is put together from those of the parts
        tolerance = {"rtol": 0.02, "atol": 0.02} if "running_var" in name else {"rtol": 0, "atol": 3 * rel}
        torch.testing.assert_close(two[name], tensor, **tolerance, msg=name)


def test_two_processes_train_a_recipe_as_one_does(photos: Path, tmp_path: Path) -> None:
    """Stem, and flow in parts of a batch, started by torchrun."""
    common = four_a_step(photos, tmp_path)
    for key in ("run_dir", "stage"):
        del common[key]
    stem, flow = settings(photos, tmp_path)["stage"], flow_stage(Path())
    stages = {
        "stem": {"stage": {"stem": stem["stem"]}},
        "pretrain": {"accumulation": 2, "stage": {"preset": flow["preset"], "network": flow["network"]}},
    }
    recipe = {"common": common, "stages": stages}
    for run in ("one", "two"):
        written(tmp_path / f"{run}.yaml", {"run_dir": str(tmp_path / run), **recipe})
    both = launch([*TORCHRUN, *TRAIN, tmp_path / "two.yaml"])
    assert both.returncode == 0, both.stderr
    said = both.stderr.splitlines()
    assert len([line for line in said if "training on up to" in line]) == 2
    assert len([line for line in said if line.startswith("weights in")]) == 1
    assert "Warning" not in both.stderr

    app(["train", str(tmp_path / "one.yaml")], standalone_mode=False)
    assert_alike(tmp_path / "two/stem", tmp_path / "one/stem", "lr_stem", rel=1e-5)
    assert_alike(tmp_path / "two/pretrain", tmp_path / "one/pretrain", "transformer")
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert writers(tmp_path / "two/pretrain") == {"shard-00001", "shard-00002"}
    assert writers(tmp_path / "one/pretrain") == {"shard-00001"}


def test_two_processes_have_bit_by_bit_the_losses_of_one_that_takes_its_batch_in_two_parts(
    photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    flow = four_a_step(photos, tmp_path / "two", stage=flow_stage(stem_folder))
    both = launch([*TORCHRUN, *TRAIN, written(tmp_path / "two.yaml", flow)])
    assert both.returncode == 0, both.stderr
    train_here({**flow, "run_dir": str(tmp_path / "one"), "accumulation": 2})
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    one, two = (weights(tmp_path / run / "knee/transformer") for run in ("one", "two"))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())


def test_both_processes_killed_and_one_goes_on(photos: Path, tmp_path: Path) -> None:
    """Started by accelerate launch."""
    config = four_a_step(photos, tmp_path / "run", total_images=400)
    path = written(tmp_path / "a.yaml", config)
    command = list(map(str, [*ACCELERATE, *TRAIN, path]))
    launcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while launcher.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 20):
        time.sleep(0.005)
    trainers = psutil.Process(launcher.pid).children(recursive=True)
    assert len(trainers) == 2
    for trainer in trainers:
        trainer.kill()
    assert launcher.wait() != 0
    assert 10 < len(losses(tmp_path / "run")) < 100

    train_here(config)
    train_here({**config, "run_dir": str(tmp_path / "unbroken")})
    assert_alike(tmp_path / "run", tmp_path / "unbroken", "lr_stem", rel=1e-3)


def test_sharded_processes_train_as_one_does(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    """FSDP2: flow by AdamW, resumed, and in bfloat16; stem by Muon; and returns of the guard to a checkpoint."""
    flow = four_a_step(photos, tmp_path / "flow", stage=flow_stage(stem_folder))
    muon = four_a_step(photos, tmp_path / "muon", optimizer={"name": "muon", "warmup_images": 8})
    guard = {"loss_factor": 1.5, "window": 10, "max_bad_steps": 1, "max_rollbacks": 20}
    wild = four_a_step(photos, tmp_path / "wild", guard=guard, optimizer={"lr": 0.3, "warmup_images": 40})
    half = {**flow, "run_dir": str(tmp_path / "half"), "mixed_precision": "bf16"}
    runs = {"start": {**flow, "total_images": 16}, "flow": flow, "half": half, "muon": muon, "wild": wild}
    paths = [written(tmp_path / f"{name}.yaml", config) for name, config in runs.items()]
    both = launch([*TORCHRUN, Path(__file__).parent / "sharded_run.py", *paths])
    assert both.returncode == 0, both.stderr
    for name in ("flow", "half", "muon", "wild"):
        train_here({**runs[name], "run_dir": str(tmp_path / "one" / name)})

    assert_alike(tmp_path / "flow", tmp_path / "one/flow", "transformer")
    assert_alike(tmp_path / "half", tmp_path / "one/half", "transformer", rel=1e-2)
    # its bfloat16 steps of Newton and Schulz make much of a last bit
    assert_alike(tmp_path / "muon", tmp_path / "one/muon", "lr_stem", rel=0.02)
    events = [
        [r for r in read_records(run) if "event" in r] for run in (tmp_path / "wild", tmp_path / "one/wild")
    ]
    assert events[0]
    assert [event["images"] for event in events[0]] == [event["images"] for event in events[1]]

    # what was split over two processes goes on in one
    train_here({**flow, "total_images": 56})
    train_here({**flow, "total_images": 56, "run_dir": str(tmp_path / "one" / "flow")})
    assert_alike(tmp_path / "flow", tmp_path / "one/flow", "transformer", rel=1e-3)


def test_a_mistake_is_said_once(photos: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "a.yaml", four_a_step(photos, tmp_path / "run", batch_size=5))
    both = launch([*TORCHRUN, *TRAIN, path])
    assert both.returncode != 0
    ours = [line for line in both.stderr.splitlines() if line.startswith("linearsr:")]
    assert ours == ["linearsr: batch_size: 5 is not a multiple of the 2 processes"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("version", "optimizer", "message"),
    [
        (1, "adamw", r"^FSDP: version 1 .* fsdp_version: 2"),
        (2, "came", r"^optimizer\.name: came .* adamw"),
    ],
)
def test_what_does_not_work_on_split_weights_is_refused(
    version: int, optimizer: str, message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=version)))
    monkeypatch.setattr("linearsr.training.processes.Accelerator", lambda **how: split)
    with pytest.raises(ConfigError, match=message):
        start(TrainConfig(**settings(photos, tmp_path / "run", optimizer={"name": optimizer})))
