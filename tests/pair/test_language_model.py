"""A pretrained language model that learns to see, in small: a random Llama with a tokenizer of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, GPT2Config, GPT2LMHeadModel

from fetch_smollm2 import GGUF, fetch
from small_recipes import make_trainer, save_language_model, small_stages
from vispec import load_draft
from vispec.cli import main
from vispec.pair import make_sample, make_turns
from vispec.pair.chat import UNLABELLED, Chat
from vispec.pair.evaluate import answer
from vispec.pair.language_model import TUNE, LanguageModelRecipe, default_stages
from vispec.pair.write_requests import SHORT, write_requests
from vispec.target import Target


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    """The folder of one with tied embeddings."""
    return save_language_model(tmp_path_factory.mktemp("language_model"))


@pytest.fixture(scope="module")
def frozen(language_model, tmp_path_factory) -> Path:
    """A run that trains the tower and the projector alone."""
    folder = tmp_path_factory.mktemp("frozen")
    trainer = make_trainer(LanguageModelRecipe(str(language_model), "frozen", small_stages("frozen")), folder)
    trainer.run()
    trainer.save_target()
    return folder


def read_target(folder: Path):
    """What a run saved, in fp32, and its processor."""
    model = AutoModelForImageTextToText.from_pretrained(folder / "target", dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder / "target")


def test_the_template_is_the_language_models(language_model):
    recipe = LanguageModelRecipe(str(language_model))
    chat = Chat(recipe.processor)
    assert chat.opening == "<|im_start|>user\n<image>"
    assert chat.before_answer == "<|im_end|>\n<|im_start|>assistant\n"
    assert chat.before_question == "\n<|im_start|>user\n"
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
    text = recipe.processor.apply_chat_template(plain, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_ids_are_the_processors(language_model):
    recipe = LanguageModelRecipe(str(language_model))
    chat, processor = Chat(recipe.processor), recipe.processor
    for index in range(10):
        _, turns, _ = make_turns(2, "train", index, 2)
        messages = []
        for turn in turns:
            image = [] if messages else [{"type": "image"}]
            messages.append({"role": "user", "content": [*image, {"type": "text", "text": turn.question}]})
            messages.append({"role": "assistant", "content": turn.answer})
        text = processor.apply_chat_template(messages)
        image = make_sample(0, "test", 0).image
        expected = processor(images=image, text=text, add_special_tokens=False)["input_ids"][0]
        ids, labels = chat.encode(turns)
        assert processor.tokenizer.decode(expected[len(ids) :]) == "\n"  # behind the last end of turn
        assert ids == expected[: len(ids)]
        written = processor.tokenizer.decode([label for label in labels if label != UNLABELLED])
        assert written == "".join(turn.answer + "<|im_end|>" for turn in turns)


@pytest.mark.parametrize("tied", [True, False])
def test_the_language_model_is_as_it_was(tmp_path, tied):
    """Its logits of a text, and the image token's below the greatest."""
    folder = save_language_model(tmp_path, tied=tied)
    recipe = LanguageModelRecipe(str(folder))
    model = recipe.make_model(recipe.stages[0]).eval()
    source = AutoModelForCausalLM.from_pretrained(folder).eval()
    image = recipe.processor.image_token_id
    assert image == source.config.vocab_size == model.config.text_config.vocab_size - 1
    ids = recipe.processor.tokenizer("A red square is left of it.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected, logits = source(ids).logits, model(ids).logits
    torch.testing.assert_close(logits[..., :image], expected)
    assert (logits[..., image] < expected.amax(-1)).all()
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    lengths = source.get_input_embeddings().weight.detach().norm(dim=-1)
    assert recipe.feature_length == pytest.approx(float(lengths.mean()))


def test_frozen(language_model, frozen):
    model, processor = read_target(frozen)
    source = AutoModelForCausalLM.from_pretrained(language_model).get_decoder().state_dict()
    image = processor.image_token_id
    for name, weight in model.model.language_model.state_dict().items():
        kept = weight[:image] if name == "embed_tokens.weight" else weight
        assert torch.equal(kept, source[name].bfloat16().float()), name
    saved = torch.load(frozen / "checkpoint.pt", weights_only=True)["model"]
    assert all(name.startswith(("model.vision_tower.", "model.multi_modal_projector.")) for name in saved)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert Target(model).placeholders["image"] == image
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(answer(model, processor, [make_sample(0, "test", index) for index in range(2)])) == 2


@pytest.mark.parametrize("tune", TUNE)
def test_both_stages_learn(language_model, tmp_path, tune):
    trainer = make_trainer(LanguageModelRecipe(str(language_model), tune, small_stages(tune)), tmp_path)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    for stage in trainer.recipe.stages:
        losses = []
        for _ in range(3):
            trainer.pool = 1  # the same pictures, at a rate that is not zero
            losses.append((trainer._align(stage) if stage.align else trainer._dialogues(stage))["loss"])
        assert losses[-1] < losses[0], stage.name
        trainer._next_stage()
    changed = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight" in changed
    assert ("model.language_model.embed_tokens.weight" in changed) == (tune == "all")
    assert any(".language_model.layers.1." in name for name in changed) == (tune != "frozen")


def test_features_have_the_length_of_embeddings(language_model, tmp_path):
    """Where the embeddings are longer the alignment asks for longer features: its loss is that of scaled ones."""
    recipe = LanguageModelRecipe(str(language_model), stages=small_stages("frozen"))
    stage = replace(recipe.stages[0], learning_rate=0.0, pool_size=8)
    trainer = make_trainer(recipe, tmp_path)
    expected = trainer._align(stage)["loss"]
    recipe.feature_length *= 2
    with torch.no_grad():
        for weight in trainer.model.model.multi_modal_projector.linear_2.parameters():
            weight.mul_(2)
    assert trainer._align(stage)["loss"] == pytest.approx(expected, rel=1e-5)


def test_lora_is_merged(language_model, tmp_path):
    trainer = make_trainer(LanguageModelRecipe(str(language_model), "lora", small_stages("lora")), tmp_path)
    model = trainer.run()
    trainer.save_target()
    plain = trainer.recipe.finished(model, trainer.current).eval()
    assert not any("lora" in name or "base_layer" in name for name in plain.state_dict())
    sample = make_sample(0, "test", 0)
    inputs = trainer.recipe.processor(images=sample.image, text=f"<image>{sample.question}", return_tensors="pt")
    with torch.no_grad():
        expected, logits = model(**inputs).logits, plain(**inputs).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    source = AutoModelForCausalLM.from_pretrained(language_model)
    decoder, layers = source.get_decoder(), plain.model.language_model.layers
    assert not torch.equal(layers[0].mlp.up_proj.weight, decoder.layers[0].mlp.up_proj.weight)
    assert torch.equal(layers[0].input_layernorm.weight, decoder.layers[0].input_layernorm.weight)
    saved = torch.load(trainer.checkpoint, weights_only=True)["model"]
    assert not any("base_layer" in name or "embed_tokens" in name for name in saved)
    loaded, _ = read_target(tmp_path)
    assert loaded.state_dict().keys() == plain.state_dict().keys()


def test_resumed(language_model, tmp_path):
    """From a checkpoint in the midst of the last stage, which holds only what is trained."""

    def recipe() -> LanguageModelRecipe:
        return LanguageModelRecipe(str(language_model), "lora", small_stages("lora"))

    expected = make_trainer(recipe(), tmp_path / "undisturbed").run().state_dict()
    trainer = make_trainer(recipe(), tmp_path / "resumed")
    for _ in range(2):
        trainer._align(trainer.current)
        trainer.pool += 1
    trainer._next_stage()
    trainer._dialogues(trainer.current)
    trainer.pool += 1
    trainer._save()
    resumed = make_trainer(recipe(), tmp_path / "resumed")
    assert (resumed.stage, resumed.pool, resumed.step) == (1, 1, trainer.step)
    for name, weight in resumed.run().state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_another_way_of_tuning_is_another_recipe(language_model, tmp_path):
    make_trainer(LanguageModelRecipe(str(language_model), "frozen", small_stages("frozen")), tmp_path)._save()
    with pytest.raises(ValueError, match="folder: expected a checkpoint of this recipe, with model"):
        make_trainer(LanguageModelRecipe(str(language_model), "all", small_stages("all")), tmp_path)


def test_vispec_train_accepts_it(frozen, tmp_path):
    write_requests(tmp_path, 6, "validation", 7, SHORT)
    options = {
        "model": frozen / "target",
        "data": tmp_path / "requests.jsonl",
        "output": tmp_path / "run",
        "answers": "given",
        "epochs": 1,
        "batch-size": 2,
        "eval-share": 0.2,
        "eval-samples": 1,
        "dtype": "float32",
    }
    assert main(["train", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]) == 0
    model, _ = read_target(frozen)
    assert load_draft(tmp_path / "run" / "draft", model).config.hidden_size == 64


def test_the_stages_of_each_tuning():
    for tune in TUNE:
        align, answers = default_stages(tune)
        assert align.align
        assert not answers.align
        assert answers.muon == (tune == "frozen")
    rates = [default_stages(tune)[1].learning_rate for tune in TUNE]
    assert rates == sorted(rates, reverse=True)


def test_wrong_arguments(language_model, tmp_path):
    with pytest.raises(ValueError, match="tune: expected one of frozen, lora, all, got 'none'"):
        LanguageModelRecipe(str(language_model), "none")
    with pytest.raises(OSError, match="/no/such/folder"):
        LanguageModelRecipe("/no/such/folder")
    folder = save_language_model(tmp_path / "silent", template=None)
    with pytest.raises(ValueError, match="language_model: expected one with a chat template"):
        LanguageModelRecipe(str(folder))
    folder = save_language_model(tmp_path / "gpt2")
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=1000)).save_pretrained(folder)
    with pytest.raises(ValueError, match="language_model: expected one of the families llama, qwen2, got gpt2"):
        LanguageModelRecipe(str(folder))


def test_peft_is_missing(language_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    LanguageModelRecipe(str(language_model), "frozen")
    with pytest.raises(ImportError, match=r'tune: "lora" needs peft; `pip install ".\[lora\]"` brings it'):
        LanguageModelRecipe(str(language_model), "lora")


@pytest.mark.release
@pytest.mark.parametrize("tune", TUNE)
def test_smollm2(tmp_path, tune):
    """Steps of both stages on the real SmolLM2-135M-Instruct; what was saved goes on writing."""
    align, answers = default_stages(tune)
    stages = (
        replace(align, num_pools=1, pool_size=64),
        replace(answers, num_pools=1, pool_size=4, tokens=1024, num_turns=2),
    )
    trainer = make_trainer(LanguageModelRecipe(str(fetch() / GGUF), tune, stages), tmp_path)
    assert trainer.chat.before_answer == "<|im_end|>\n<|im_start|>assistant\n"
    trainer.run()
    trainer.save_target()
    entries = [json.loads(line) for line in trainer.log.read_text().splitlines()]
    assert [entry["stage"] for entry in entries] == ["align", "tune"]
    assert entries[1]["loss"] < 4  # it knows the language
    for entry in entries:
        print(entry)
    del trainer
    model, processor = read_target(tmp_path)
    sample = make_sample(0, "test", 0)
    content = [{"type": "image"}, {"type": "text", "text": sample.question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=sample.image, text=text, return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, min_new_tokens=8, max_new_tokens=8)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 8
    assert processor.image_token_id not in output[0, -8:]
