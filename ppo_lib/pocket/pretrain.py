"""Pretraining of the pocket base model: next-token prediction on the base corpus, from random weights, on CPU.

The loop is as small as the model. Each row of a batch starts with the start of a document and is filled up with
further documents, so that the model knows what a first token looks like (there is no BOS token in this world).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ppo_lib.pocket.corpus import documents


def pocket_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The pocket models' architecture: a Llama of 0.96 million parameters with tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )


def rows(tokenizer: PreTrainedTokenizerFast, seed: int, width: int, handed_in: bool = False) -> Iterator[list[int]]:
    """Rows of ``width`` token ids: whole documents, each ended by EOS, the last one cut at the row's end."""
    row: list[int] = []
    for document in documents(seed, handed_in):
        row += tokenizer(document)["input_ids"] + [tokenizer.eos_token_id]
        if len(row) >= width:
            yield row[:width]
            row = []


def learning_rate_at(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up to ``peak``, then a cosine down to a twentieth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def pretrain(
    tokenizer: PreTrainedTokenizerFast,
    steps: int = 1700,
    batch: int = 32,
    width: int = 128,
    peak: float = 4e-3,
    seed: int = 0,
    model: LlamaForCausalLM | None = None,
    handed_in: bool = False,
) -> LlamaForCausalLM:
    """Train the base model, from nothing or further.

    Args:
        tokenizer: the pocket tokenizer.
        steps: optimizer steps; each reads ``batch * width`` tokens.
        batch: rows a step.
        width: tokens a row.
        peak: the learning rate's peak.
        seed: seed of the initial weights and of the corpus's documents.
        model: go on with this one, in place, with a fresh optimizer; ``None`` starts from random weights.
        handed_in: the corpus's, see :func:`ppo_lib.pocket.corpus.documents`.

    Returns:
        The trained model, in float32 and eval mode.
    """
    if model is None:
        torch.manual_seed(seed)
        model = LlamaForCausalLM(pocket_config(tokenizer))
    model.train()
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))
    stream = rows(tokenizer, seed + 1, width, handed_in)
    progress = tqdm(range(steps), desc="pretraining", mininterval=10.0)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, peak)
        ids: Tensor = torch.tensor([next(stream) for _ in range(batch)])  # (batch, width)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
    return model.eval()
