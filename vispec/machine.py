"""What a measurement was made on: models, versions, processor."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from vispec.auto import AUTO
from vispec.info import package_version
from vispec.pair.pretrained import Pair
from vispec.tree import TreeConfig

CPU_INFO = Path("/proc/cpuinfo")


def facts_of_pair(pair: Pair) -> dict[str, str]:
    """Both models in a line each."""
    text = pair.model.config.get_text_config()
    target, draft = (_millions(model) for model in (pair.model, pair.draft.model))
    return {
        "Target": f"{pair.model.config.model_type}, {text.num_hidden_layers} layers of size {text.hidden_size}, "
        f"{target} weights",
        "Draft": f"1 layer, {draft} weights; embedding and LM head are the target's",
    }


def tree_text(tree: TreeConfig | Literal["auto"] | None) -> str:
    """What a cycle drafts, in words."""
    if isinstance(tree, TreeConfig):
        return f"depth {tree.depth}, {tree.top_k} children a node, {tree.num_nodes} nodes"
    return "chosen cycle by cycle" if tree == AUTO else "nothing"


def facts_of_run(model: PreTrainedModel, tree: TreeConfig | Literal["auto"]) -> dict[str, str]:
    """How and where `model` runs now."""
    dtype = str(model.dtype).removeprefix("torch.")
    versions = [f"{name} {package_version(name)}" for name in ("vispec", "torch", "transformers")]
    return {
        "Tree": tree_text(tree),
        "Run": f"{dtype} on {model.device}, torch threads: {torch.get_num_threads()}",
        "Processor": cpu_name() if model.device.type == "cpu" else torch.cuda.get_device_name(model.device),
        "Versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
    }


def cpu_name() -> str:
    """As the processor calls itself; else the architecture."""
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _millions(model: torch.nn.Module) -> str:
    return f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}M"
