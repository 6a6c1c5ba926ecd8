"""Speculative decoding for vision-language models by the ViSpec method (arXiv 2509.15235)."""

from typing import TYPE_CHECKING, NoReturn

__all__ = ["Draft", "DraftConfig", "SpeculativeOutput", "TreeConfig", "accelerate", "generate", "load_draft"]

try:
    from vispec.draft.checkpoint import Draft, load_draft
    from vispec.draft.config import DraftConfig
    from vispec.generate import SpeculativeOutput, accelerate, generate
    from vispec.tree import TreeConfig
except (ImportError, OSError) as error:
    if not TYPE_CHECKING:
        # `vispec info` must be able to say what is wrong; whoever uses anything else gets the error then
        _error = error

        def __getattr__(name: str) -> NoReturn:
            if name in __all__:
                raise ImportError(str(_error)) from _error
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
