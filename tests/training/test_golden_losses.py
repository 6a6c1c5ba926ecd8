"""Training passes, losses and gradients against the published code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from golden_data import ATOL, assert_close, cases, golden, golden_draft, golden_target
from vispec.draft.model import DraftModel
from vispec.training.losses import text_loss, vision_loss
from vispec.training.passes import feature_noise, multi_token_passes

RELATIVE = 5e-7  # of a ranking loss, as an independent fp32 implementation reaches


def trainable_draft(draft: str) -> tuple[DraftModel, Tensor]:
    """The recorded draft with gradients, and the target's LM head."""
    target = golden_target(draft)
    return golden_draft(draft, target).model.requires_grad_(True), target.get_output_embeddings().weight.detach()


def check_gradients(model: DraftModel, recorded: dict[str, Tensor]) -> None:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = [name.removeprefix("grad_norm.") for name in recorded if name.startswith("grad_norm.")]
    assert names
    for name in names:
        torch.testing.assert_close(gradients[name].norm(), recorded[f"grad_norm.{name}"], rtol=1e-4, atol=1e-5)
        if f"grad.{name}" in recorded:
            torch.testing.assert_close(gradients[name], recorded[f"grad.{name}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("draft", "name"), cases("stage2"))
def test_vision_stage(draft: str, name: str) -> None:
    recorded = golden(draft, name)
    model, head = trainable_draft(draft)
    embeds, features = recorded["file_inputs_embeds"], recorded["file_hidden_state"]
    image = recorded["file_image_mask"].nonzero()[:, 0]
    runs = [(int(image[0]) - 1, int(image[-1]))]
    noisy = features + recorded.get("noise", torch.zeros_like(features))
    last = len(features) - 1  # the last index has no target, and nothing else reads it
    passes = multi_token_passes(model, [embeds[1:]], [noisy[:last]], [runs], int(recorded["mtp_steps"]))
    for outputs, expected in zip(passes, recorded["predictions"], strict=True):
        assert_close(outputs[0], expected[:last])

    counted = recorded["batch_loss_mask"][:last].bool()
    logits = torch.cat([outputs[0][counted] for outputs in passes]) @ head.T
    target_logits = (features[1:][counted] @ head.T).repeat(len(passes), 1)
    result = vision_loss(logits, target_logits)
    torch.testing.assert_close(result.ranking, recorded["ranking"], rtol=RELATIVE, atol=0)
    assert_close(result.l1, recorded["l1"])
    torch.testing.assert_close(result.loss, recorded["loss"], rtol=1e-6, atol=ATOL)
    result.loss.backward()
    check_gradients(model, recorded)


@pytest.mark.parametrize(("draft", "name"), cases("stage1"))
def test_text_stage(draft: str, name: str) -> None:
    """A plain EAGLE draft: `img_fc` passes features through, `fc` and the layer are trained."""
    recorded = golden(draft, name)
    model, head = trainable_draft(draft)
    model.reset_parameters()
    embeds, features = recorded["file_inputs_embeds"], recorded["file_hidden_state"]
    last = len(features) - 1
    (outputs,) = multi_token_passes(model, [embeds[1:]], [features[:last]], [[]], 0)
    assert_close(outputs[0], recorded["predictions"][:last])

    counted = recorded["batch_loss_mask"][:last].bool()
    clean = features[1:][counted]
    result = text_loss(outputs[0][counted], clean, outputs[0][counted] @ head.T, clean @ head.T)
    for part in ("smooth_l1", "cross_entropy", "loss"):
        torch.testing.assert_close(getattr(result, part), recorded[part], rtol=1e-6, atol=ATOL)
    torch.testing.assert_close(result.ranking, recorded["ranking"], rtol=RELATIVE, atol=0)
    result.loss.backward()
    check_gradients(model, recorded)


def test_passes_do_not_depend_on_their_batch() -> None:
    model, _ = trainable_draft("llava_like")
    samples = [golden("llava_like", name) for name in ("prefill_one_image", "prefill_text_only")]
    embeds = [sample["inputs_embeds"] for sample in samples]
    features = [sample["target_hidden"] for sample in samples]
    runs = [[(5, 16)], []]
    together = multi_token_passes(model, embeds, features, runs, 2)
    for index in range(2):
        alone = multi_token_passes(model, embeds[index : index + 1], features[index : index + 1], [runs[index]], 2)
        for ours, expected in zip(together, alone, strict=True):
            assert_close(ours[index], expected[0], atol=1e-6)


def test_noise_is_uniform_and_seeded() -> None:
    features = torch.zeros(32, 64)
    noise = feature_noise(features, torch.Generator().manual_seed(0))
    bound = 0.1 * 512 / 32
    assert noise.abs().max() <= bound
    assert noise.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert torch.equal(noise, feature_noise(features, torch.Generator().manual_seed(0)))
