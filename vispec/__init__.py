"""Speculative decoding for vision-language models by the ViSpec method (arXiv 2509.15235)."""

from vispec.draft.checkpoint import Draft, load_draft
from vispec.draft.config import DraftConfig
from vispec.generate import SpeculativeOutput, accelerate, generate
from vispec.tree import TreeConfig

__all__ = ["Draft", "DraftConfig", "SpeculativeOutput", "TreeConfig", "accelerate", "generate", "load_draft"]
