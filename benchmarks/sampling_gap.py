"""How far the log-probs of sampler and scorer are apart when the adapter is merged for the rollout, and when it is not.

    python benchmarks/sampling_gap.py runs/capitals/ppo > benchmarks/results/sampling-gap.txt

The band of ``sampling_gap_mean`` in ``ppo_lib/run/health.py`` rests on this: an adapter that was trained, on a real
model, in the precision of a GPU. The answers are sampled anew, to the questions that the run was asked.
"""

import argparse
import json
from pathlib import Path

import torch

from ppo_lib.models.backbone import Backbone
from ppo_lib.sampling.rollout import sample


def gaps(backbone: Backbone, prompts: list[list[int]], tokens: int) -> torch.Tensor:
    """Absolute differences of the two log-probs, of every sampled token, nats."""
    sampled = sample(backbone, prompts, tokens, adapter="policy", generator=torch.Generator().manual_seed(0))
    batch = sampled.batch
    with torch.no_grad():
        before = backbone.hidden_states(batch, "policy")[:, batch.prompt_width - 1 : -1]
        scored, _ = backbone.token_logprobs(before, batch.responses, batch.mask, entropy=False)
    return (scored - sampled.logprobs).abs()[batch.mask.bool()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="folder of a finished PPO run")
    parser.add_argument("--prompts", type=int, default=32, help="how many questions")
    parser.add_argument("--tokens", type=int, default=24, help="longest answer")
    options = parser.parse_args()
    settings = json.loads((options.run / "manifest.json").read_text(encoding="utf-8"))["config"]
    rows = map(json.loads, (options.run / "samples.jsonl").read_text(encoding="utf-8").splitlines())
    asked = list(dict.fromkeys(row["prompt"] for row in rows))[: options.prompts]
    print(f"{settings['model']}, beta {settings['beta']}, {settings['iterations']} iterations; {len(asked)} questions")
    print()
    print(f"{'weights':12}{'adapter':12}{'blocks':12}{'mean':>10}{'largest':>10}   nats per token")
    for dtype in ("float32", "bfloat16"):
        backbone = Backbone.from_pretrained(settings["model"], dtype=dtype, chat_template=settings["chat_template"])
        backbone.load_adapter("policy", options.run / "model")
        prompts = backbone.encode_prompts(asked)
        for merged in (True, False):
            for fused in (True, False):
                backbone.merge_adapter = merged
                backbone.fuse_blocks(fused)
                gap = gaps(backbone, prompts, options.tokens)
                words = ["merged" if merged else "beside", "fused" if fused else "plain"]
                print(f"{dtype:12}{words[0]:12}{words[1]:12}{float(gap.mean()):10.5f}{float(gap.max()):10.4f}")


if __name__ == "__main__":
    main()
