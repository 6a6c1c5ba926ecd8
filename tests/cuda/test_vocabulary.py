"""CUDA's words and the wrappers of ptx.cuh do what the manuals say: on the host, and alike on a device.

A mistake in `ptx.cpp` that a kernel shares would show on a device and nowhere else.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cuda_host import Schedule, run_file, run_file_on_device, same_in_every_schedule
from cuda_host.vocabulary import check_answers, vocabulary_case

SOURCE = Path(__file__).resolve().parent / "vocabulary.cu"
GPUS = [pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else []


@pytest.mark.parametrize("device", ["host", *GPUS])
def test_every_answer(device: str, schedules: list[Schedule]) -> None:
    case = vocabulary_case()
    if device == "cuda":
        case = {name: tensor.cuda() for name, tensor in case.items()}
        run_file_on_device(SOURCE, "vocabulary", "VocabularyParams", **case)
        return check_answers(case)

    def run(schedule: Schedule) -> list[Tensor]:
        ours = {name: tensor.clone() for name, tensor in case.items()}
        run_file(SOURCE, "vocabulary", "VocabularyParams", schedule, **ours)
        check_answers(ours)
        return list(ours.values())

    same_in_every_schedule(run, schedules)
