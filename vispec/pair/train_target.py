"""Trains a target: `python -m vispec.pair.train_target FOLDER`; its result is FOLDER/target.

The pair's own comes from scratch in three stages: the vision tower learns to write the words of what each patch shows
(in the word embeddings, fixed and random); a model of a quarter of the layers learns to read and answer with the tower
as it is; grown to all layers, everything learns together. With --language-model a pretrained language model learns to
see instead, in two stages: the tower learns to write words in the model's own embeddings, then answers are learnt end
to end. A run that was killed goes on from its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from vispec.pair.dataset import SHARES
from vispec.pair.language_model import TUNE, LanguageModelRecipe
from vispec.pair.recipe import Recipe, Stage, align_stage
from vispec.pair.target import NEW_LAYERS, NUM_LAYERS, grow, make_target
from vispec.pair.tokenizer import make_processor
from vispec.pair.trainer import Trainer

HARD = ("where", "is_there", "relation")  # questions that come three times as often until the model has grown
THINGS = ("scene/", "emoji/")
EARLY_SHARES = {
    key: share * (3 if key.startswith(THINGS) and key.endswith(HARD) else 1) for key, share in SHARES.items()
}
FEW_LAYERS = NUM_LAYERS // (1 + NEW_LAYERS)
STAGES = (
    align_stage(EARLY_SHARES, FEW_LAYERS),
    Stage(
        name="small",
        num_pools=160,
        pool_size=160,
        tokens=4096,
        learning_rate=2e-3,
        warm_up=0.03,
        final=0.1,
        shares=EARLY_SHARES,
        num_layers=FEW_LAYERS,
        num_turns=3,
        train_tower=False,
        muon=True,  # in the first 30 pools far quicker than AdamW
    ),
    Stage(
        name="grown",
        num_pools=270,
        pool_size=160,
        tokens=4096,
        learning_rate=1e-3,
        warm_up=0.03,
        final=0.0,
        shares=SHARES,
        num_layers=NUM_LAYERS,
        num_turns=3,
        muon=True,
        word_weight=0.05,
    ),
)


class PairRecipe(Recipe):
    """The pair's target from scratch."""

    def __init__(self, stages: tuple[Stage, ...] = STAGES) -> None:
        super().__init__(make_processor(), stages)

    def make_model(self, stage: Stage) -> LlavaForConditionalGeneration:
        return make_target(self.processor.tokenizer, stage.num_layers or NUM_LAYERS)

    def next_model(self, model: LlavaForConditionalGeneration, stage: Stage) -> LlavaForConditionalGeneration:
        """Grown where the stage has more layers."""
        num_layers = stage.num_layers or NUM_LAYERS
        if num_layers == model.config.text_config.num_hidden_layers:
            return model
        return grow(model, self.processor.tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for checkpoint, log and result; a run in it goes on")
    parser.add_argument(
        "--language-model", metavar="NAME", help="a folder, a name on the Hub or a .gguf file, to train instead"
    )
    parser.add_argument(
        "--tune", choices=TUNE, help="what of the language model is trained: nothing (default), adapters, or all"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of matrix products")
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers: needs a C++ compiler")
    options = parser.parse_args()
    if options.tune and not options.language_model:
        parser.error("--tune: expected --language-model with it")
    torch.set_num_threads(options.threads)
    try:
        recipe: Recipe = (
            LanguageModelRecipe(options.language_model, options.tune or TUNE[0])
            if options.language_model
            else PairRecipe()
        )
        trainer = Trainer(recipe, options.folder, options.dtype == "bfloat16", options.compile)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    trainer.run()
    trainer.save_target()


if __name__ == "__main__":
    main()
