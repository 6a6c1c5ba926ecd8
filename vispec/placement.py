"""Where a target's weights are (on a device or several, offloaded, split over processes), and who hooks into it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vispec.processes import processes_of


def device_of(module: nn.Module) -> torch.device:
    """Where a module works; its weights may come there for each pass alone."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def is_placed(module: nn.Module) -> bool:
    """Whether its forward was replaced by one that does the same with weights that are elsewhere, or a part of them."""
    return hasattr(module, "_hf_hook") or any(hasattr(weight, "device_mesh") for weight in module.parameters())


def _hooked_module(model: PreTrainedModel) -> str | None:
    """The name of a module with a forward hook, or None; transformers' own, which note hidden states, do not count."""
    for name, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if any(getattr(hook, "__module__", None) != "transformers.utils.output_capturing" for hook in hooks):
            return name or "the target"
    return None


def why_not_recorded(model: PreTrainedModel) -> str | None:
    """Why a pass cannot be recorded once and run again, compiled or as a CUDA graph, or None."""
    if processes_of(model).are_several:
        return "the target is split over processes"
    if getattr(model, "is_quantized", False):
        return "the target is quantised, which was never tried"
    placed = next((name for name, module in model.named_modules() if hasattr(module, "_hf_hook")), None)
    if placed is not None:
        return f"{placed or 'the target'} is offloaded or dispatched by accelerate"
    hooked = _hooked_module(model)
    return None if hooked is None else f"{hooked} has a forward hook, which would not be called"


def whole_weight(module: nn.Module, name: str = "weight") -> Tensor | None:
    """A module's parameter as a plain tensor of floats, fetched or gathered if need be; None: it has no such form.

    Where a model is split over processes, all of them must ask.
    """
    weight = _fetched(module, name)
    if hasattr(weight, "full_tensor"):  # a DTensor
        weight = weight.full_tensor()
    is_plain = type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point() and not weight.is_meta
    return weight.detach() if is_plain else None


def _fetched(module: nn.Module, name: str) -> Tensor:
    if not hasattr(module, "_hf_hook"):
        return getattr(module, name)
    from accelerate.utils import align_module_device

    with align_module_device(module):
        return getattr(module, name)
