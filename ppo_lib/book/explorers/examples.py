"""The worked example of the chapters, in one place: three tokens with their log-probs, score and values."""

import torch
from torch import Tensor

TOKENS = ("1 very", "2 very", "3 sleepy")
LOGPROBS = (-0.9, -2.5, -0.5)
REF_LOGPROBS = (-1.5, -1.0, -0.5)
VALUES = (3.0, 3.5, 4.0)
SCORE = 5.0
BETA = 0.1
MASK = torch.ones(1, 3, dtype=torch.float64)


def row(*values: float) -> Tensor:
    """One response as the functions of ppo_lib want it: ``(1, T)``, float64."""
    return torch.tensor([values], dtype=torch.float64)
