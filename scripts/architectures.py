"""Try every architecture that transformers offers as a causal language model, tiny and with random weights.

    python scripts/architectures.py                 # print the table
    python scripts/architectures.py llama bloom     # of these alone
    python scripts/architectures.py --write         # put it into book/architectures.md

Each model is saved as the hub would have it, loaded, trained by PPO for a step with an adapter, saved, read again and
merged; its samplers are held to what is scored, and so is what is done on a GPU alone. It works, or it is refused in
one sentence: anything else is a fault, is printed as one, and makes the exit code 1.
"""

import argparse
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from ppo_lib.errors import BadInput
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch
from ppo_lib.run.memory import plan_memory
from ppo_lib.sampling.decoding import supports_static_cache
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.ppo import PPOTrainer

PAGE = Path(__file__).resolve().parent.parent / "book" / "architectures.md"
OPEN, CLOSE = "<!-- scripts/architectures.py --write -->", "<!-- end of the table -->"
PROMPTS, BUDGET, TOLERANCE = ["Hi", "What is it?"], 20, 1e-3
LARGEST = 5_000_000  # parameters of a tiny model
CONFIG = PPOConfig(
    iterations=1, rollout_batch=4, minibatch=4, microbatch=4, epochs=1, max_new_tokens=8, lora_rank=2, device="cpu"
)
# What a configuration may call its sizes; those that it has are set. Windows are shorter than the sequences tried.
SIZES: dict[str, Any] = {
    "vocab_size": 258,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(
        ("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "dff"), 64
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_key_value_heads", "num_kv_heads"), 4),
    **dict.fromkeys(("head_dim", "v_head_dim", "sliding_window", "window_size", "attention_chunk_size"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 4),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "eos_token_id": 0,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "decoder_start_token_id": 0,
    "is_decoder": True,
    "is_encoder_decoder": False,
}
# What single architectures need besides.
MORE: dict[str, dict[str, Any]] = {
    "axk1": {"head_dim": 4},
    "codegen": {"rotary_dim": 4},
    "deepseek_v2": {"head_dim": 4, "num_experts_per_tok": 2, "topk_method": "greedy"},
    "deepseek_v3": {"head_dim": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 4},
}


@dataclass(frozen=True)
class Verdict:
    """What became of an architecture.

    Attributes:
        name: transformers' ``model_type``.
        works: it was trained, saved, read again and merged, and its samplers sample what is scored.
        static: a cache of fixed size samples the same, as a GPU does by CUDA graphs.
        why: the sentence with which it was refused.
    """

    name: str
    works: bool
    static: bool = False
    why: str = ""


class NoTinyModel(Exception):
    """No tiny random model of this architecture can be made from sizes alone."""


def tiny_config(kind: type, more: dict[str, Any] | None = None) -> Any:
    """A configuration with all sizes that it has set to tiny ones."""
    known = kind().to_dict()
    chosen = {key: value for key, value in SIZES.items() if key in known and known[key] is not None}
    chosen |= {key: SIZES[key] for key in ("eos_token_id", "pad_token_id") if key in known}
    parts = {name: part for name, part in getattr(kind, "sub_configs", {}).items() if hasattr(part, "model_type")}
    chosen |= {name: tiny_config(part).to_dict() for name, part in parts.items() if name in known}
    return kind(**(chosen | (more or {})))


def save_tiny(kind: type, folder: Path) -> None:
    """Write a tiny random model, with a tokenizer of bytes, as the hub would have it.

    Raises:
        NoTinyModel: transformers does not make one.
    """
    try:
        config = tiny_config(kind, MORE.get(kind.model_type))  # type: ignore[attr-defined]
        with torch.device("meta"):  # first without memory: sizes that have other names are as large as ever
            count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if count > LARGEST:
            raise ValueError(f"{count / 1e6:.0f} million parameters remain")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # the usual beginning is so small that all tokens would be equally likely
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.generation_config.eos_token_id = 0
        model.save_pretrained(str(folder))
    except Exception as error:
        raise NoTinyModel(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from error
    letters = ["<eos>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)


def length(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that differs from answer to answer."""
    return [len(response) / 10 for response in responses]


def near(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    """Both are finite and the same but for rounding.

    Raises:
        AssertionError: they are not.
    """
    off = float((a - b).abs().max())
    assert off <= TOLERANCE * max(1.0, float(b.abs().max())), f"{what}: off by {off:.3g}"


def try_out(folder: Path) -> bool:
    """Do with a model all that the library promises; whether a cache of fixed size samples the same.

    Raises:
        BadInput: the model is refused.
        AssertionError: it was taken, and something came out wrong.
    """
    backbone = Backbone.from_pretrained(folder)
    policy = ActorCritic(backbone, CONFIG.lora_rank)
    plan_memory(backbone.causal_lm.config, CONFIG, 8)
    trainer = PPOTrainer(CONFIG, policy, PROMPTS, length)
    assert trainer.step()["ratio_first_error"] <= TOLERANCE, "the ratio does not begin at 1"
    for parameter in policy.parameters_to_train():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    static, batch = sampled_as_scored(backbone), backbone.encode_pairs(PROMPTS, ["yes", "not quite"])
    with torch.no_grad():
        before, hidden = policy.evaluate(batch).logprobs, backbone.hidden_states(batch, "policy")
        merged = Backbone(backbone.merged("policy"), backbone.tokenizer, "merged")
        near(merged.logits(merged.hidden_states(batch)), backbone.logits(hidden), "merged")
        policy.save_pretrained(folder / "policy")
        near(ActorCritic.from_pretrained(folder / "policy").evaluate(batch).logprobs, before, "saved and read again")
    quicker(policy, batch)
    assert all(score == 0 for score in RewardModel(backbone, 2).scores(PROMPTS, ["yes", "no"])), "a fresh judge says 0"
    return static


def quicker(policy: ActorCritic, batch: TokenBatch) -> None:
    """What is done on a GPU alone changes nothing, be it fused blocks or a merged adapter.

    Raises:
        AssertionError: it does.
    """
    backbone, found = policy.backbone, []
    for fused in (False, True):
        backbone.fuse_blocks(fused)
        policy.zero_grad()
        new = policy.evaluate(batch, entropy=False)
        (new.logprobs.sum() + new.values.sum()).backward()
        gradients = [p.grad.flatten() for p in policy.parameters_to_train() if p.grad is not None]
        found.append((new.logprobs.detach(), torch.cat(gradients)))
    backbone.merge_adapter = True
    sampled = sample(backbone, backbone.encode_prompts(PROMPTS), 8, adapter="policy", static_cache=False)
    with torch.no_grad():
        near(policy.evaluate(sampled.batch).logprobs, sampled.logprobs, "sampled with a merged adapter")
    backbone.merge_adapter = None
    backbone.fuse_blocks(False)
    policy.zero_grad()
    for what, plain, fast in zip(("log-probs", "gradients"), *found, strict=True):
        near(fast, plain, f"{what} with fused blocks")


@torch.no_grad()
def sampled_as_scored(backbone: Backbone) -> bool:
    """Whether the cache of fixed size gives the tokens of the growing one, which must be those that the scorer likes.

    Raises:
        AssertionError: one of them samples other tokens than it should.
    """
    prompts = backbone.encode_prompts(PROMPTS)
    batch = sample(backbone, prompts, BUDGET, 0.0, "policy", static_cache=False).batch
    logits = backbone.logits(backbone.hidden_states(batch, "policy")[:, batch.prompt_width - 1 : -1])
    taken = logits.gather(-1, batch.responses.unsqueeze(-1)).squeeze(-1)
    near(taken * batch.mask, logits.amax(dim=-1) * batch.mask, "sampled from the growing cache")
    if not supports_static_cache(backbone):
        return False
    fixed = sample(backbone, prompts, BUDGET, 0.0, "policy", static_cache=True).batch
    assert torch.equal(fixed.sequences, batch.sequences), "the cache of fixed size samples other tokens"
    return True


def judge(kind: type) -> Verdict:
    """Try one architecture.

    Raises:
        NoTinyModel: there is nothing to try.
        Exception: whatever else comes is a fault of the library.
    """
    name: str = kind.model_type  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_tiny(kind, Path(place) / "model")
        try:
            return Verdict(name, works=True, static=try_out(Path(place) / "model"))
        except BadInput as error:
            return Verdict(name, works=False, why=str(error).replace(f"{place}/", ""))


def architectures() -> dict[str, type]:
    """Every kind of configuration that transformers maps to a causal language model, by its name."""
    return {kind.model_type: kind for kind in AutoModelForCausalLM._model_mapping}  # type: ignore[attr-defined]


def table(verdicts: list[Verdict], missing: dict[str, str]) -> str:
    """The verdicts as Markdown: what works, what is refused and why, what could not be tried."""
    works = [verdict for verdict in verdicts if verdict.works]
    lines = [
        f"Tried with transformers {version('transformers')} and PEFT {version('peft')}: {len(works)} architectures "
        f"work, {len(verdicts) - len(works)} are refused, of {len(missing)} no tiny model can be made of sizes.",
        "",
        "| works | caches |",
        "| --- | --- |",
        *(f"| `{x.name}` | growing{' and fixed' if x.static else ''} |" for x in works),
        "",
        "| refused | sentence |",
        "| --- | --- |",
        *(f"| `{x.name}` | {x.why.replace('|', '/')} |" for x in verdicts if not x.works),
        "",
        "Not tried: " + ", ".join(f"`{name}`" for name in missing) + ".",
    ]
    return "\n".join(lines)


def main() -> int:
    """Try them, print or write the table; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="model types; all by default")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    verdicts: list[Verdict] = []
    missing: dict[str, str] = {}
    faults = 0
    for name, kind in architectures().items():
        if options.names and name not in options.names:
            continue
        try:
            verdicts.append(judge(kind))
            told = f"works, {'both caches' if verdicts[-1].static else 'growing cache'}"
            told = told if verdicts[-1].works else f"refused: {verdicts[-1].why}"
        except NoTinyModel as reason:
            missing[name] = told = f"no tiny model: {reason}"
        except Exception as error:
            faults, told = faults + 1, f"FAULT {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(f"{name:28} {told}", file=sys.stderr, flush=True)
    if options.write and not faults:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(OPEN)
        after = rest.partition(CLOSE)[2]
        PAGE.write_text(f"{before}{OPEN}\n{table(verdicts, missing)}\n{CLOSE}{after}", encoding="utf-8")
    else:
        print(table(verdicts, missing))
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
