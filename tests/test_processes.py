"""Targets that are split over processes write what they write in one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from transformers.distributed import DistributedConfig

import split_target
import vispec
from families import TABLE
from killing import PATIENCE
from models import make_pair
from refusal import refused

# transformers 5.23 compares the shapes of its experts' weights before it transposes them, if they are to be split
NOT_LOADED = ("qwen3_vl_moe",)
IDS = torch.tensor([[5, 9, 14]])


def check_two_processes(folder: Path, families: Sequence[str]) -> None:
    """They add up in another order than one does, a rounding: no text here is so close."""
    split_target.save_pairs(folder, families)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*launch, split_target.__file__, str(folder), *families], check=True, env=environment, timeout=PATIENCE
    )
    first, second = (torch.load(folder / f"texts{rank}.pt") for rank in (0, 1))
    accepted = 0
    for family in families:
        one = split_target.texts_of(folder, family, rank=0)
        for name, text in one.items():
            assert torch.equal(first[family][name], text), (family, name)
            assert torch.equal(second[family][name], text), (family, name)
        assert torch.equal(one["greedy"], one["plain"])
        accepted += sum(int((counts > 0).sum()) for name, counts in one.items() if name.endswith("accepted"))
    assert accepted > len(families)
    for said in (first["other prompts"], second["other prompts"]):
        assert said.startswith("input_ids: expected the same in all 2 processes")


def test_two_processes(tmp_path: Path) -> None:
    check_two_processes(tmp_path, ("llama", "llava", "qwen2_5_vl"))


@pytest.mark.release
def test_two_processes_in_every_family(tmp_path: Path) -> None:
    check_two_processes(tmp_path, [family for family in TABLE if family not in NOT_LOADED])


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_sharded_for_training() -> None:
    """Its processes would have to run as many cycles as each other."""
    model, draft = make_pair("llama")
    for layer in model.model.layers:
        fully_shard(layer, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    with refused(model, NotImplementedError, "model: ", "split over processes (DTensor)", 'tp_plan="auto"'):
        vispec.generate(model, draft, IDS)


def test_split_otherwise() -> None:
    model, draft = make_pair("llama")
    model.config.distributed_config = DistributedConfig(pp_size=2)
    with refused(model, NotImplementedError, "split over processes (pp_size)", "tensor parallelism alone"):
        vispec.generate(model, draft, IDS)
