"""How fast are the products of a linear layer, by PyTorch's own choice and by oneDNN (ppo_lib.models.linear)?

    python benchmarks/bench_linear.py          # about a minute, one thread; or: make bench SCRIPT=bench_linear

For a few shapes: a forward pass without a gradient, a forward and backward pass with a frozen weight (as LoRA's), and
one with a trained weight. CPU seconds, the least of seven repetitions, both ways in turn.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ppo_lib.models import linear

SHAPES = [(64, 128, 128), (256, 128, 128), (2048, 128, 128), (704, 256, 256), (704, 256, 704), (704, 8, 704)]
SHAPES += [(64, 896, 4864), (704, 256, 2048)]


def fastest(*works: Callable[[], object], repetitions: int = 7, calls: int = 20) -> list[float]:
    """CPU seconds of one call of each."""
    best = [float("inf")] * len(works)
    for _ in range(repetitions):
        for i, work in enumerate(works):
            work()
            start = time.process_time()
            for _ in range(calls):
                work()
            best[i] = min(best[i], (time.process_time() - start) / calls)
    return best


def learn(layer: nn.Linear, x: Tensor, gradient: Tensor) -> None:
    """Forward and backward."""
    layer(x).backward(gradient)
    x.grad = layer.weight.grad = None


def main() -> None:
    torch.set_num_threads(1)
    linear.SMALL = 0  # measured below the limit as well
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread; microseconds, ratio")
    print(f"{'rows':>6}{'in':>6}{'out':>6}{'million':>9}{'forward':>22}{'weight frozen':>22}{'weight trained':>22}")
    for rows, inputs, outputs in SHAPES:
        layers = [nn.Linear(inputs, outputs, bias=False) for _ in range(2)]
        linear.quicken(layers[1])
        x = torch.randn(rows, inputs, requires_grad=True)
        gradient = torch.randn(rows, outputs)
        with torch.no_grad():
            columns = [fastest(*(partial(layer, x) for layer in layers))]
        for trained in (False, True):
            for layer in layers:
                layer.weight.requires_grad_(trained)
            columns.append(fastest(*(partial(learn, layer, x, gradient) for layer in layers)))
        cells = [f"{1e6 * own:8.0f}{1e6 * ours:7.0f}{ours / own:7.2f}" for own, ours in columns]
        print(f"{rows:6}{inputs:6}{outputs:6}{rows * inputs * outputs / 1e6:9.1f}" + "".join(cells))


if __name__ == "__main__":
    main()
