"""The pipeline: seeds, fidelity, noise levels and steps, experts and their guidance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from linearsr import LinearSRPipeline
from linearsr.flow.partition import PUBLISHED
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import PipelineConfig


def test_an_images_result_does_not_depend_on_its_neighbours(
    pipe: LinearSRPipeline, photo: np.ndarray
) -> None:
    other = np.random.default_rng(1).random((7, 9, 3), dtype=np.float32)
    alone = pipe(photo, seed=5, output_type="np").images[0]
    together = pipe([other, photo, photo], seed=[1, 5, 6], output_type="np").images
    assert np.array_equal(together[1], alone)
    assert not np.array_equal(together[2], alone)
    assert [t.shape[:2] for t in together] == [(28, 36), (40, 48), (40, 48)]


def test_generators_seed_too(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    def run(seed: int) -> np.ndarray:
        return np.asarray(pipe(photo, generator=torch.Generator().manual_seed(seed)).images[0])

    assert np.array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))
    with pytest.raises(ValueError, match="2 seeds or generators for 1 images"):
        pipe(photo, seed=[1, 2])


def test_fidelity_walks_from_the_sample_to_the_mean(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    sample, middle, mean = (
        pipe(photo, fidelity=f, output_type="latent", num_inference_steps=3).images[0] for f in (0, 0.25, 1)
    )
    torch.testing.assert_close(middle, 0.75 * sample + 0.25 * mean)
    one_step = pipe(photo, fidelity=0, num_inference_steps=1, output_type="latent").images[0]
    torch.testing.assert_close(mean, one_step)


def test_the_mean_takes_one_evaluation(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    steps: list[tuple[int, float]] = []

    def count(_: object, step: int, t: float, state: dict[str, torch.Tensor]) -> None:
        steps.append((step, t))
        assert set(state) == {"latents", "steps"}

    pipe(photo, fidelity=1, callback_on_step_end=count)
    assert len(steps) == 1
    steps.clear()
    pipe(photo, fidelity=0, num_inference_steps=5, callback_on_step_end=count)
    assert [step for step, _ in steps] == [0, 1, 2, 3, 4]
    assert steps[-1][1] == 0


def test_the_mean_may_be_the_stems(tiny_model: Path, photo: np.ndarray) -> None:
    pipe = LinearSRPipeline.from_pretrained(tiny_model, device="cpu")
    pipe.config = replace(pipe.config, mean="stem")
    steps: list[int] = []
    mean = pipe(
        photo, fidelity=1, output_type="latent", callback_on_step_end=lambda p, i, t, s: steps.append(i)
    )
    assert not mean.images[0].any()
    assert not steps
    sample, middle = (pipe(photo, fidelity=f, output_type="latent").images[0] for f in (0, 0.25))
    torch.testing.assert_close(middle, 0.75 * sample)


def test_stem_and_codec_share_one_grid(pipe: LinearSRPipeline) -> None:
    other = PredictiveStem(PredictiveStemConfig(scale=2, channels=8, num_blocks=1, patch=2))
    with pytest.raises(
        ValueError, match="one feature for 4 HR pixels a side, and the codec one latent for 8"
    ):
        LinearSRPipeline(other, pipe.transformer, pipe.codec)


def test_only_a_residual_codec_has_a_mean_of_the_stem(pipe: LinearSRPipeline) -> None:
    with pytest.raises(ValueError, match="mean"):
        LinearSRPipeline(pipe.lr_stem, pipe.transformer, object(), PipelineConfig(mean="stem"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mean 'flow' is not one of first_step, stem"):
        PipelineConfig(mean="flow")  # type: ignore[arg-type]


def test_a_callback_may_replace_the_latents(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    def blank(_: object, step: int, t: float, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"latents": torch.zeros_like(state["latents"])}

    latent = pipe(photo, fidelity=0, callback_on_step_end=blank, output_type="latent").images[0]
    assert (latent == 0).all()


def test_own_noise_levels_are_walked_for_their_number_of_steps(tiny_model: Path, photo: np.ndarray) -> None:
    pipe = LinearSRPipeline.from_pretrained(tiny_model, device="cpu")
    pipe.config = replace(pipe.config, num_inference_steps=3, sigmas=(1.0, 0.9, 0.2))
    times: list[float] = []
    pipe(photo, fidelity=0, callback_on_step_end=lambda p, i, t, s: times.append(t))
    assert times == [0.9, 0.2, 0.0]
    times.clear()
    pipe(photo, fidelity=0, num_inference_steps=2, callback_on_step_end=lambda p, i, t, s: times.append(t))
    assert times == [0.5, 0.0]


def test_each_step_goes_to_its_expert(
    pipe: LinearSRPipeline, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    embed, experts = LinearSRTransformer.embed, list(pipe.transformer.experts)

    def watched(self: LinearSRTransformer, *inputs: torch.Tensor) -> torch.Tensor:
        used.append(experts.index(self))
        return embed(self, *inputs)

    monkeypatch.setattr(LinearSRTransformer, "embed", watched)
    pipe(photo, fidelity=0, num_inference_steps=10)
    assert used == [PUBLISHED.expert(1 - i / 10) for i in range(10)]
    assert len(set(used)) > 2


def test_guidance_tokens_steer_and_scale_one_is_one_pass(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for expert in pipe.transformer.experts:
            for block in expert.transformer_blocks:
                torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.2)
    tokens = torch.randn(1, 3, 16)
    plain = pipe(photo, fidelity=0, output_type="latent").images[0]
    guided, strong = (
        pipe(photo, fidelity=0, guidance_embeds=tokens, guidance_scale=g, output_type="latent").images[0]
        for g in (1, 2)
    )
    assert not torch.allclose(plain, guided)
    assert not torch.allclose(guided, strong)
    with pytest.raises(ValueError, match="guidance_embeds"):
        pipe(photo, guidance_scale=3)
    with pytest.raises(ValueError, match="guidance_embeds have 15 channels, and the model takes 16"):
        pipe(photo, guidance_embeds=tokens[..., :15])


def test_sigmas_that_make_no_sense_are_refused() -> None:
    for sigmas in ((0.9, 0.5), (1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="must fall strictly from 1"):
            PipelineConfig(sigmas=sigmas)
