"""The mathematics: pure functions on tensors, which know PyTorch and nothing else."""
