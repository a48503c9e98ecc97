"""Can a model be read as :class:`ppo_lib.models.backbone.Backbone` reads it? Seen on a few tokens, before a run."""

from typing import TYPE_CHECKING

import torch

from ppo_lib.models.tokens import pad_pairs

if TYPE_CHECKING:
    from ppo_lib.models.backbone import Backbone


@torch.no_grad()
def check_forward(backbone: "Backbone") -> None:
    """Refuse a model whose log-probs would be wrong.

    Raises:
        ValueError: its logits are not its output head applied to its hidden states, or they change when a prompt is
            padded on the left.
    """
    model, device = backbone.causal_lm, backbone.device
    prompt, longer = [backbone.eos_token_ids[0], 0], [1, 0, 1, 0]
    ids = torch.tensor([[*prompt, 1]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    own = model(**inputs).logits.float()
    scale = float(own.abs().max())
    head = backbone.logits(backbone.body(**inputs).last_hidden_state)
    if not float((head - own).abs().max()) <= 1e-2 * scale:  # the same numbers, in a precision of their own
        raise ValueError(
            f"model {backbone.name!r} ({model.config.model_type}) changes its logits after the output head "
            "in a way that ppo_lib does not know; its log-probs would be wrong"
        )
    batch = pad_pairs([prompt, longer], [[1], [1]], backbone.pad_token_id).to(device)
    padded = backbone.logits(backbone.hidden_states(batch))[:1, -ids.shape[1] :]
    exact = model.dtype in (torch.float32, torch.float64)
    if not float((padded - own).abs().max()) <= (1e-3 if exact else 0.2) * scale:
        raise ValueError(
            f"model {backbone.name!r} ({model.config.model_type}, {model.dtype}) gives other logits "
            "when a prompt is padded on the left; its log-probs would depend on the batch"
        )
