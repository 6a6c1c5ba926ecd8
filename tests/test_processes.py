"""Targets that are split over processes write what they write in one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from transformers.distributed import DistributedConfig

import split_target
import vispec
from models import make_pair
from refusal import refused

IDS = torch.tensor([[5, 9, 14]])


def test_two_processes_write_the_same_texts(tmp_path: Path) -> None:
    """Beside sums in another order, a rounding each: no text here is so close."""
    split_target.save_pairs(tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*launch, split_target.__file__, str(tmp_path)], check=True, timeout=240, env=environment)
    first, second = (torch.load(tmp_path / f"texts{rank}.pt") for rank in (0, 1))
    for family in split_target.FAMILIES:
        one = split_target.texts_of(tmp_path, family, rank=0)
        for name, text in one.items():
            assert torch.equal(first[family][name], text), (family, name)
            assert torch.equal(second[family][name], text), (family, name)
        assert torch.equal(one["greedy"], one["plain"])
        assert one["greedy, accepted"].any()
    for said in (first["other prompts"], second["other prompts"]):
        assert said.startswith("input_ids: expected the same in all 2 processes")


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
