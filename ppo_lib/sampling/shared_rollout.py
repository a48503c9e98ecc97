"""One rollout batch, answered by all processes together; with a single one, :func:`ppo_lib.sampling.rollout.sample`."""

from collections.abc import Sequence

import torch

from ppo_lib.models.backbone import Backbone
from ppo_lib.models.tokens import pad_pairs
from ppo_lib.parallel.processes import Processes
from ppo_lib.sampling.rollout import Sampled, sample


def sample_together(
    processes: Processes,
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    adapter: str | None,
    generator: torch.Generator,
) -> Sampled:
    """Sample one response for each prompt, each process its share, and give every process all of them.

    The random numbers belong to rows: each process draws those of the whole batch and uses the ones of its rows. So
    what is sampled does not depend on how many processes there are.

    Args:
        processes: who shares the work.
        generator: source of randomness, in the same state on every process; it is left in the same state.
        backbone, prompts, max_new_tokens, temperature, adapter: as :func:`ppo_lib.sampling.rollout.sample` takes them.
    """
    before = generator.get_state()
    shape = (max_new_tokens, len(prompts))
    noise = torch.rand(shape, dtype=torch.float64, device=backbone.device, generator=generator).T
    mine = processes.share(range(len(prompts)))
    own = [prompts[i] for i in mine]
    sampled = sample(backbone, own, max_new_tokens, temperature, adapter, noise=noise[mine.start : mine.stop])
    if processes.size > 1:
        rows = zip(sampled.batch.responses, sampled.batch.response_lengths.tolist(), strict=True)
        responses = processes.gather([row[:n].tolist() for row, n in rows])
        finished = processes.gather(sampled.finished.tolist())
        batch = pad_pairs(prompts, responses, backbone.pad_token_id).to(backbone.device)
        sampled = Sampled(batch, torch.tensor(finished, device=backbone.device))
    # Numbers for steps that no response needed go back: a larger budget must not change what follows.
    generator.set_state(before)
    steps = sampled.batch.responses.shape[1]
    torch.rand((steps, len(prompts)), dtype=torch.float64, device=backbone.device, generator=generator)
    return sampled
