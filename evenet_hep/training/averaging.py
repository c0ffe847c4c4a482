"""A running average of weights and running statistics, on Lightning's callback."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class RunningAverage(WeightAveraging):
    """Exponential average of all weights and of the running statistics of batch normalisations.

    It is swapped in for validation, is what a checkpoint's ``state_dict`` holds, and what a run ends with.

    Parameters
    ----------
    decay : float
        Of the average. In the first steps it is (1 + n) / (10 + n) for n steps done, where that is smaller: the random
        weights of the start are soon forgotten.

    Notes
    -----
    Lightning averages all buffers, those that hold positions included. Here whole numbers and flags are copied, and a
    value that does not change stays what it is to the last digit.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        super().__init__(use_buffers=True, multi_avg_fn=self._average)

    def _average(self, averages: Sequence[Tensor], currents: Sequence[Tensor], number: Tensor | int) -> None:
        averages, currents = list(averages), list(currents)
        if averages[0].is_floating_point():
            n = float(number)
            torch._foreach_lerp_(averages, currents, 1 - min(self.decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(averages, currents)
