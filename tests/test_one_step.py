"""One step at full size: distillation in the latents of an autoencoder, with the tokens of the teacher's guidance."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from linearsr import LinearSRPipeline
from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig
from linearsr.images.resize import resize
from linearsr.models.lr_stem import StridedStem, StridedStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS, TransformerConfig
from linearsr.training.checks import check
from linearsr.training.config import TrainConfig, parse_settings, read_settings
from linearsr.training.distill import DistillObjective, DistillStage
from linearsr.training.judges import Discriminator
from linearsr.training.objective import Batch
from linearsr.training.recipe import Run, plan
from linearsr.training.section import ConfigError
from training_tools import (
    AUTOENCODER,
    flow_stage,
    make_photos,
    make_sana,
    parse,
    read_records,
    recipe_settings,
    settings,
    train,
    untagged,
    weights,
)

diffusers = pytest.importorskip("diffusers")
CONFIG = Path(__file__).parents[1] / "configs/600m/one-step.yaml"
WORDS = ("sky", "sea", "tree", "wall")


def network(**changes: Any) -> LinearSRTransformer:
    return LinearSRTransformer(TransformerConfig(**{**vars(PRESETS["tiny"]), **changes}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of a tiny model of the full size's kind: DC-AE, strided stem, two experts, tokens of tags."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    StridedStem(StridedStemConfig(channels=8, num_layers=1)).save_pretrained(folder / "lr_stem")
    diffusers.AutoencoderDC(**AUTOENCODER).save_pretrained(folder / "codec")
    TagGuidance(TagGuidanceConfig(WORDS, 16)).save_pretrained(folder / "guidance")
    SNRExperts(Partition((0.5,)), [network(), network()]).save_pretrained(folder / "transformer")
    return folder


def stage(model: Path, **changes: Any) -> dict[str, Any]:
    base = {"kind": "distill", "stem": str(model / "lr_stem"), "codec": str(model / "codec"), "channels": 8}
    return {**base, "init": str(model / "transformer" / "expert_0"), **changes}


def objective(raw: dict[str, Any]) -> DistillObjective:
    torch.manual_seed(0)
    return DistillStage.model_validate(raw).objective()


def batch(side: int = 16, tags: torch.Tensor | None = None) -> Batch:
    lr, hr = (torch.rand(2, 3, n, n, generator=torch.Generator().manual_seed(n)) for n in (side, 4 * side))
    plain = untagged(2 * lr - 1, 2 * hr - 1, [1, 2])
    return plain if tags is None else plain._replace(tags=tags)


class Spy:
    """What a module is called with; the call goes on as it was."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        module.register_forward_pre_hook(lambda _, *call: self.calls.append(call), with_kwargs=True)


def test_a_discriminator_judges_samples_of_a_stem_without_prediction(model: Path) -> None:
    made = objective(stage(model))
    assert isinstance(made.network.discriminator, Discriminator)
    seen = Spy(made.network.discriminator)
    pair = batch()
    terms = made.loss(made.network, pair)
    assert set(terms) == {"l1", "adversarial", "discriminator"}
    upsampled = resize(pair.lr, (64, 64))
    torch.testing.assert_close(seen.calls[0][0][1], torch.cat([upsampled, upsampled]))
    terms["adversarial"].backward(retain_graph=True)
    student = dict(made.flow.named_parameters())
    assert student["transformer.proj_out.weight"].grad.any()  # type: ignore[union-attr]
    assert all(weight.grad is None for weight in made.network.discriminator.parameters())
    for weight in student.values():
        weight.grad = None
    terms["discriminator"].backward()
    assert all(weight.grad is None for weight in student.values())
    assert all(weight.grad is not None for weight in made.network.discriminator.parameters())
    # a frozen decoder keeps no gradients of its own
    assert all(weight.grad is None for weight in made.codec.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize("predicts", [False, True])
def test_only_a_window_of_each_crop_is_decoded_and_judged(
    model: Path, stem_folder: Path, predicts: bool
) -> None:
    raw = flow_stage(stem_folder, kind="distill", channels=8) if predicts else stage(model)
    made = objective({**raw, "judged_crop": 8})
    seen = Spy(made.network.discriminator)  # type: ignore[arg-type]
    pair = batch(32)
    made.loss(made.network, pair)
    both, beside = seen.calls[0][0]
    assert both.shape == beside.shape == (4, 3, 32, 32)
    whole = pair.hr.unfold(2, 32, 4 * made.multiple_of).unfold(3, 32, 4 * made.multiple_of)
    for image, window in zip(whole, both[:2], strict=True):
        # one of the places on the grid of the latent
        assert (image == window[:, None, None]).flatten(3).all(3).all(0).any()
    # drawn for each sample alone
    made.loss(made.network, Batch(*(part[1:] for part in pair)))  # type: ignore[arg-type]
    assert torch.equal(seen.calls[2][0][0][0], both[1])
    assert torch.equal(seen.calls[2][0][1][0], beside[1])


def test_teacher_and_first_step_see_the_tokens_of_the_student(model: Path) -> None:
    guidance = {"part": str(model / "guidance"), "dropout": 0, "tag_dropout": 0, "false_tags": 0}
    walk = str(model / "transformer")
    made = objective(
        stage(model, teacher=walk, rollout=walk, teacher_times=[1.0, 0.75, 0.25], guidance=guidance)
    )
    tags = torch.tensor([[1.0, 0, 1, 0], [0.0, 0, 0, 0]])
    assert made.teacher is not None
    assert made.first is not None
    spies = [Spy(part) for part in (made.flow.transformer, *made.teacher.experts, made.first.experts[0])]
    made.loss(made.network, batch(tags=tags))
    assert [len(spy.calls) for spy in spies] == [1, 2, 1, 1]
    table = TagGuidance.from_pretrained(model / "guidance").table.weight
    for _, given in (call for spy in spies for call in spy.calls):
        torch.testing.assert_close(given["encoder_hidden_states"][0], table[[0, 2]])
        assert given["encoder_attention_mask"].tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_times": [1.0, 0.5]}, "teacher_times: has no effect without teacher"),
        ({"min_weight_time": 0.3}, "min_weight_time: .* leave it out"),
        ({"rollout": "MODEL/transformer", "pure_noise_prob": 1.0}, "rollout: has no effect with pure_noise"),
        (
            {"teacher": "MODEL/transformer", "guidance": {"vocabulary": "words"}},
            r"guidance: .* guidance\.part",
        ),
        ({"judged_crop": 3}, r"^stage\.judged_crop: 3 is not a multiple of 2"),
        ({"judged_crop": 10}, r"^stage\.judged_crop: 10 is more than data\.lr_crop 8"),
        ({"detail_blocks": 2}, r"^stage\.detail_blocks: "),
        ({"teacher": "MODEL/guidance"}, r"^stage\.teacher: .*TagGuidance"),
        ({"teacher": "MODEL/other"}, r"^stage\.teacher: lr_channels is 4, but 8 in the network"),
        (
            {"teacher": "MODEL/silent", "guidance": {"part": "MODEL/guidance"}},
            r"^stage\.teacher: has no null tokens",
        ),
    ],
)
def test_what_cannot_act_is_refused_before_training(
    change: dict[str, Any], message: str, photos: Path, model: Path, tmp_path: Path
) -> None:
    network(lr_channels=4).save_pretrained(model / "other")
    network(num_null_tokens=0).save_pretrained(model / "silent")
    raw = json.loads(json.dumps(stage(model, **change)).replace("MODEL", str(model)))

    def look() -> None:
        config = parse_settings(TrainConfig, settings(photos, tmp_path / "run", stage=raw), "one-step.yaml")
        check([Run("single", config)])

    with pytest.raises(ConfigError, match=message) as caught:
        look()
    assert "\n" not in str(caught.value)


def test_the_config_makes_a_one_step_model_of_the_experts_of_a_recipe(tmp_path: Path) -> None:
    photos, tags = make_photos(tmp_path / "photos"), tmp_path / "tags.json"
    tags.write_text(json.dumps({"photos/0.png": ["sky", "sea"], "photos/1.png": ["tree"]}))
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    guidance = {"vocabulary": str(tmp_path / "words.txt")}
    start = {"preset": "tiny", "sana": str(make_sana(tmp_path / "sana")), "guidance": guidance}
    raw = recipe_settings(photos, tmp_path / "paper", stages={"pretrain": {"stage": start}, "experts": {}})
    raw["common"]["data"]["tags"] = str(tags)
    model = train(raw)
    assert model is not None

    small = {"batch_size": 2, "total_images": 8, "save_every_images": 4}
    places = {"stem": "lr_stem", "codec": "codec", "init": "transformer/expert_0", "teacher": "transformer"}
    small |= {f"stage.{key}": model / name for key, name in places.items()}
    small |= {"stage.guidance.part": model / "guidance", "stage.channels": 8, "stage.judged_crop": 8}
    small |= {"data.folders": f"{{{photos}: 1.0}}", "data.tags": tags, "data.lr_crop": 16, "data.workers": 0}
    small |= {"validation.folder": photos, "validation.every_images": 4, "validation.max_pictures": 1}
    small |= {"optimizer.warmup_images": 0, "optimizer.lr": 1e-3}
    changes = [f"stages.one_step.{key}={value}" for key, value in small.items()]
    changes += [f"run_dir={tmp_path / 'run'}", "parts.tagger=null", "model.use_tags=false"]
    recipe = read_settings(CONFIG, changes)
    check(plan(parse(recipe), "one-step.yaml"))
    made = train(recipe)
    steps = [record for record in read_records(tmp_path / "run/one_step") if "grad_norm" in record]
    assert len(steps) == 4
    assert all({"l1", "ms_ssim", "teacher", "adversarial", "discriminator"} <= set(step) for step in steps)
    knee = tmp_path / "run/one_step/knee/transformer"
    before, after = weights(model / "transformer/expert_0"), weights(knee)
    assert before.keys() == after.keys()
    assert (before["proj_out.weight"].float() - after["proj_out.weight"]).abs().max() > 1e-4

    fast = LinearSRPipeline.from_pretrained(made, torch_dtype=torch.float32)
    assert fast.transformer.partition.num_experts == 1
    torch.testing.assert_close(
        fast.transformer.experts[0].proj_out.weight, after["proj_out.weight"], atol=1e-2, rtol=1e-2
    )
    assert (fast.config.num_inference_steps, fast.guidance.kind) == (1, "tags")
    assert fast(Image.new("RGB", (16, 16)), tags="sky").images[0].size == (64, 64)
