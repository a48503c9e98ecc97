"""Does a sampler sample what the scorer scores? Tried on a few tokens, once for each model.

PPO compares the log-probs of whole sequences with those that the sampler drew from, token by token, out of a cache. A
cache that forgets (a window, a recurrent state, a position) draws from another distribution, and nothing that is
trained afterward shows it: the ratio is taken between two scorings. So the sampler is made to write given tokens, and
the logits that it saw on the way are laid beside the scorer's for the same tokens. A model's own growing cache is tried
when the model is loaded (:func:`ppo_lib.models.backbone.check_forward`), the cache of fixed size when it is first asked
for (:func:`ppo_lib.sampling.decoding.supports_static_cache`).
"""

import torch
from torch import Tensor

from ppo_lib.models.backbone import Backbone
from ppo_lib.models.tokens import TokenBatch

STEPS = 6  # tokens that are sampled: the first from the prompt, the others out of the cache


class Witness:
    """In place of what picks tokens: it takes given ones, and remembers the logits that it was shown.

    Attributes:
        logits: a tensor ``(B, V)`` for each token.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.logits = backbone, list[Tensor]()
        vocabulary = backbone.vocab_size
        ends = set(backbone.eos_token_ids)
        self.tokens = [token for token in range(2, vocabulary) if token not in ends][: 2 * STEPS + 5]

    @property
    def prompts(self) -> list[list[int]]:
        """Two prompts of different lengths, so that one is padded; empty where there are too few tokens to try."""
        few = self.tokens[:5]
        return [few, few[:2]] if len(self.tokens) >= STEPS + 5 else []

    def __call__(self, hidden: Tensor, number: object = None) -> tuple[Tensor, Tensor]:
        """The next given token of each row, whatever the hidden states ``(B, H)`` say, and no log-prob of it."""
        self.logits.append(self.backbone.logits(hidden))
        tokens = torch.full((len(hidden),), self.tokens[4 + len(self.logits)], device=hidden.device)
        return tokens, torch.zeros_like(tokens, dtype=torch.float32)

    def agrees(self, batch: TokenBatch) -> bool:
        """Whether the scorer has the same logits for the tokens that were taken.

        In half precision, single numbers of the two ways differ by much; then the mean counts.
        """
        states = self.backbone.hidden_states(batch, self.backbone.acting)[:, batch.prompt_width - 1 : -1]
        scored, seen = self.backbone.logits(states), torch.stack(self.logits, dim=1)
        if scored.shape != seen.shape or not bool(torch.isfinite(seen).all()):
            return False
        off, scale = (scored - seen).abs(), float(scored.abs().max())
        exact = self.backbone.causal_lm.dtype in (torch.float32, torch.float64)
        return float(off.max()) <= 1e-3 * scale if exact else float(off.mean()) <= 0.1 * scale
