"""A target that is split over processes: tensor parallel, `tp_plan="auto"` under torchrun.

Each process makes the same call and holds a part of every layer, so each pass of the target needs them all, and they
must take the same decisions. What a clock, a random generator or a rounding could make different, the first process
decides: the seed, the tree, the target's tokens, when to stop. The draft is whole in each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor
from transformers import PreTrainedModel

from vispec.tree import Plan, TreeConfig

if TYPE_CHECKING:  # not in every build of torch
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

# in transformers' DistributedConfig: ways to split a model that are not tensor parallelism alone
OTHER_SPLITS = ("pp_size", "ep_size", "fsdp_size", "dp_replicate_size", "enable_expert_parallel")


class Processes:
    """Those that one target is split over; without a `group` this one alone."""

    def __init__(self, group: ProcessGroup | None = None, device: torch.device | None = None) -> None:
        self.group, self.device = group, device

    @property
    def are_several(self) -> bool:
        return self.group is not None

    @property
    def is_first(self) -> bool:
        return self.group is None or torch.distributed.get_rank(self.group) == 0

    def agreed(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The first process's values, of tensors of integers or bools that have the same shapes in all."""
        if self.group is None:
            return tensors
        packed = torch.cat([tensor.flatten().long() for tensor in tensors]).to(self.device)
        torch.distributed.broadcast(packed, group=self.group, group_src=0)
        parts = packed.split([tensor.numel() for tensor in tensors])
        return tuple(part.view_as(own).to(own) for part, own in zip(parts, tensors, strict=True))

    def agreed_int(self, value: int) -> int:
        """The first process's value."""
        return value if self.group is None else int(self.agreed(torch.tensor(value))[0])

    def check_same(self, name: str, values: Tensor) -> None:
        """Raise a ValueError, in all processes, unless int64 `values` are the same in all; of any shape."""
        if self.group is None:
            return
        places = torch.arange(1, values.numel() + 1, device=values.device)
        mark = torch.stack([places[-1], (values.flatten() * places**2).sum()])
        differs = (self.agreed(mark)[0] != mark).any().int().to(self.device)
        torch.distributed.all_reduce(differs, torch.distributed.ReduceOp.MAX, self.group)
        if differs:
            count = torch.distributed.get_world_size(self.group)
            raise ValueError(
                f"{name}: expected the same in all {count} processes that the model is split over: each of them makes "
                "the same call"
            )


class FirstsPlan:
    """What the first process's plan says: its clock counts."""

    def __init__(self, plan: Plan, processes: Processes) -> None:
        self.plan, self.processes = plan, processes
        self.trees: Sequence[TreeConfig] = plan.trees

    def next_tree(self, length: int) -> TreeConfig | None:
        choices = (None, *self.trees)
        own = choices.index(self.plan.next_tree(length)) if self.processes.is_first else 0
        return choices[self.processes.agreed_int(own)]

    def note(self, tree: TreeConfig | None, num_accepted: Sequence[int], seconds: float) -> None:
        if self.processes.is_first:
            self.plan.note(tree, num_accepted, seconds)


def processes_of(model: PreTrainedModel) -> Processes:
    """Those that transformers' tensor parallelism has split a model over."""
    if (getattr(model, "_tp_size", None) or 1) == 1:
        return Processes()
    mesh = next(mesh for mesh in map(_mesh_of, model.parameters()) if mesh is not None)
    return Processes(mesh.get_group("tp" if mesh.ndim > 1 else None), model.device)


def check_split(model: PreTrainedModel) -> None:
    """Raise a NotImplementedError where a model is split over processes in a way that the cycle does not know."""
    config = getattr(model.config, "distributed_config", None)
    others = [name for name in OTHER_SPLITS if _splits(getattr(config, name, None))]
    is_tensor_parallel = (getattr(model, "_tp_size", None) or 1) > 1
    if others or (not is_tensor_parallel and any(_mesh_of(weight) is not None for weight in model.parameters())):
        raise NotImplementedError(
            f"model: its weights are split over processes ({', '.join(others) or 'DTensor'}), which is supported for "
            'tensor parallelism alone: load it with tp_plan="auto", or whole'
        )


def _splits(option: int | bool | None) -> bool:
    return option is True or (option or 1) > 1


def _mesh_of(weight: Tensor) -> DeviceMesh | None:
    return getattr(weight, "device_mesh", None)  # a DTensor's
