"""Do the tests notice? Each mistake below is made on purpose in a copy of the library, and must turn a test red.

    python tests/mutations.py            # all of them, one line each; exit code 1 when one survives
    python tests/mutations.py gae clip   # those whose name holds one of the words

A mutation is one textual change of one file. The copy lies in a temporary folder; the library itself is not touched.
Heavy packages are imported once, and every mutation is tried in a fork of this process, so that all of them take a
minute and not ten.
"""

import contextlib
import gc
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# (file, tests that must notice, which of them): {name: (right, wrong)}
MUTATIONS: dict[tuple[str, str, str], dict[str, tuple[str, str]]] = {
    ("formulas/losses.py", "formulas/test_losses.py", ""): {
        "sft: sign": ("return F.cross_entropy", "return -F.cross_entropy"),
        "sft: no shift": ("logits[:, :-1][counted]", "logits[:, 1:][counted]"),
        "bradley-terry: sign": ("return -F.logsigmoid", "return F.logsigmoid"),
        "bradley-terry: sides": ("chosen - rejected\n", "rejected - chosen\n"),
        "policy gradient: sign": ("-masked_mean(logprobs * advantages", "masked_mean(logprobs * advantages"),
        "clip: sign": ("PolicyLoss(-masked_mean(", "PolicyLoss(masked_mean("),
        "clip: min becomes max": ("torch.minimum(unclipped", "torch.maximum(unclipped"),
        "clip: not at all": ("ratio.clamp(1 - epsilon, 1 + epsilon)", "ratio"),
        "clip: ratio upside down": ("(logprobs - old_logprobs).clamp", "(old_logprobs - logprobs).clamp"),
        "clip: gradient through advantages": (
            '"advantages", advantages, keep).detach()',
            '"advantages", advantages, keep)',
        ),
        "dual clip: everywhere": ("torch.where(advantages < 0, ", "torch.where(advantages < 9e9, "),
        "value loss: sign": ("return masked_mean(error", "return -masked_mean(error"),
        "value loss: one half": ("(values - returns).square()", "(values - returns).square() / 2"),
        "value clip: min of errors": ("error = torch.maximum(", "error = torch.minimum("),
        "total: critic's sign": ("+ value_coef *", "- value_coef *"),
        "total: entropy's sign": ("- entropy_coef *", "+ entropy_coef *"),
        "entropy: sign": ("total = -(p", "total = (p"),
        "entropy: padding reaches the gradient": ("torch.where(sound.unsqueeze(-1), logits, 0.0)", "logits"),
    },
    ("models/recomputing.py", "models/test_recomputing.py", "llama or acts or twice"): {
        "recompute: in the role of the day": (
            "if acting != adapter:\n        switch_adapter(block, adapter)",
            "if False:\n        pass",
        ),
        "recompute: the role stays": ("switch_adapter(block, acting)", "pass"),
        "recompute: blocks stay changed": ("del block.forward", "pass"),
    },
    ("run/stages.py", "models/test_recomputing.py", "each_stage"): {
        "recompute: the key is read and forgotten": (
            "backbone.gradient_checkpointing = config.gradient_checkpointing",
            "pass",
        ),
    },
    ("models/backbone.py", "models/test_recomputing.py", "twice"): {
        "recompute: not in a copy": ("copy.gradient_checkpointing = self.gradient_checkpointing", "pass"),
        "recompute: not at all": ("again = self.gradient_checkpointing and", "again = False and"),
    },
    ("models/adapters.py", "models/test_backbone.py", "half_precision"): {
        "adapter: float32 on bfloat16 weights": (
            "return torch.float32 if weights == torch.float16 else weights",
            "return torch.float32",
        ),
        "adapter: float16": ("return torch.float32 if weights == torch.float16 else weights", "return weights"),
    },
    ("models/backbone.py", "models/test_linear.py", "backbone"): {
        "onednn: not for weights": ("        quicken(causal_lm)\n", ""),
    },
    ("models/adapters.py", "models/test_linear.py", "backbone"): {
        "onednn: not for adapters": ("    quicken(causal_lm)\n", ""),
    },
    ("models/linear.py", "models/test_linear.py", ""): {
        "onednn: gradient of the input": ("product(gradient, weight.t())", "product(gradient, weight.t()) * 2"),
        "onednn: gradient of the weight": ("product(rows.t(), x.", "product(rows.t(), 2 * x."),
        "onednn: keeps what no gradient needs": ("x if ctx.needs_input_grad[1] else None", "x"),
        "onednn: bias forgotten": ("y if self.bias is None else y + self.bias", "y"),
        "onednn: bfloat16 too": ("x.dtype == weight.dtype == torch.float32", "x.dtype == weight.dtype"),
        "onednn: no switch": ("and torch._C._get_mkldnn_enabled()", ""),
        "onednn: subclasses lose their forward": ("type(module) is nn.Linear", "isinstance(module, nn.Linear)"),
    },
    ("formulas/kl.py", "formulas/test_kl.py", ""): {
        "kl: direction": ("logprobs - ref_logprobs\n    value", "ref_logprobs - logprobs\n    value"),
        "kl: k3 without its control variate": ("torch.expm1(-d) + d", "torch.expm1(-d)"),
        "kl: padding reaches the gradient": ("formula(torch.where(finite, d, 0.0))", "formula(d)"),
        "kl: exact, of the other side": ("(p * (logp - logq)", "(p * (logq - logp)"),
        "adaptive beta: sign": ("1 + error", "1 - error"),
        "adaptive beta: no limit for huge batches": ("min(n / self.horizon, 1.0)", "n / self.horizon"),
    },
    ("formulas/rewards.py", "formulas/test_rewards.py", ""): {
        "reward: sign of the kl": ("penalty = -beta", "penalty = beta"),
        "reward: score one token early": ("return lengths - 1", "return (lengths - 2).clamp(min=0)"),
        "reward: score on the first token": ("return lengths - 1", "return 0 * lengths"),
        "reward: kl with a gradient": ("mask.bool()).detach()", "mask.bool())"),
    },
    ("formulas/advantages.py", "formulas/test_advantages.py", ""): {
        "gae: off by one": ("values[:, 1:], torch.zeros_like(values[:, :1])", "values[:, :-1], values[:, :1]"),
        "gae: no value of what follows": ("rewards + gamma * next_values", "rewards + 0 * next_values"),
        "gae: value after the end": ("torch.zeros_like(values[:, :1])", "values[:, -1:]"),
        "gae: lambda forgotten": ("_discounted_sum(deltas, gamma * lam)", "_discounted_sum(deltas, gamma)"),
        "gae: gamma forgotten": ("_discounted_sum(deltas, gamma * lam)", "_discounted_sum(deltas, lam)"),
        "gae: returns without values": ("advantages + fill_padding", "advantages + 0 * fill_padding"),
        "gae: forwards": ("reversed(range(x.shape[1]))", "range(x.shape[1])"),
    },
    ("formulas/masking.py", "formulas/test_masking.py", ""): {
        "mean: mask dropped": (".sum() / keep.sum()", ".mean()"),
        "mean: per row": (".sum() / keep.sum()", ".sum() / len(keep)"),
        "padding multiplied instead of replaced": ("torch.where(keep, x, torch.full_like(x, value))", "x * keep"),
        "variance: biased": ("count - 1 if unbiased", "count if unbiased"),
        "whitening: padding is not zero": (
            "return torch.where(keep, whitened, torch.zeros_like(whitened))",
            "return whitened",
        ),
    },
    ("models/tokens.py", "models/test_tokens.py", ""): {
        "batch: mask one token short": ("(columns < self.response_lengths", "(columns + 1 < self.response_lengths"),
        "batch: prompt padding attended": ("(columns >= first) & ", ""),
        "batch: eos not appended": ("[*ids, eos_token_id]", "[*ids]"),
        "batch: prompts padded on the right": ("row[width - len(prompt) : width]", "row[: len(prompt)]"),
    },
    ("models/tokens.py", "models/test_actor_critic.py", "company and llama or company and gpt2"): {
        "position ids dropped": (
            "(self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)",
            "self.attention_mask.cumsum(1) * 0",
        ),
        "position ids of columns": (
            "(self.attention_mask.cumsum(dim=1) - 1)",
            "(torch.ones_like(self.attention_mask).cumsum(1) - 1)",
        ),
    },
    (
        "models/actor_critic.py",
        "models/test_actor_critic.py",
        "reference or temperature or last_counted or scored_by",
    ): {
        "states one too late": ("[:, batch.prompt_width - 1 : -1]", "[:, batch.prompt_width :]"),
        "reference with its adapter on": ("states = self.reference(batch)", "states = self.actor(batch)"),
        "reference without temperature": ("batch.mask, temperature)[0]", "batch.mask)[0]"),
    },
    ("models/actor_critic.py", "models/test_layouts.py", "counted or shares_no or loaded"): {
        "layouts: separate critic reads the actor": (
            "actor_states if self.critic is self.actor else self.critic(batch)",
            "actor_states",
        ),
        "layouts: critic loaded as the actor": ('"critic": folder / "critic"', '"critic": folder'),
        "layouts: copies stay frozen": ("parameter.requires_grad_(True)", "pass"),
    },
    ("trainers/optimizer.py", "models/test_layouts.py", "bfloat16"): {
        "adam: steps rounded to bfloat16": ("tensor if tensor.dtype.itemsize >= 4 else tensor.float()", "tensor"),
        "adam: copies not written back": ("self.world.own_part(parameter).copy_(master)", "pass"),
    },
    ("trainers/optimizer.py", "parallel/test_sharding.py", "three"): {
        "adam: gradient norm of this process alone": ("self.world.add(squares)", "pass"),
    },
    ("parallel/sharding.py", "parallel/test_sharding.py", "three"): {
        "sharding: gradients averaged": ("set_gradient_divide_factor(1.0)", "set_gradient_divide_factor(3.0)"),
    },
    ("models/reward_model.py", "models/test_actor_critic.py", "last_counted or calibration or cut_off or context"): {
        "score at the last column": (
            "last_token_index(batch.mask)\n",
            "0 * last_token_index(batch.mask) + batch.responses.shape[1] - 1\n",
        ),
        "scores not normalised": ("return (raw - self.mean) / self.std", "return raw"),
        "cut-off responses scored with an EOS": ("if finished is not None:", "if False:"),
    },
    ("trainers/judging.py", "trainers/test_ppo.py", "told_which or same_scores"): {
        "judge: cut-off responses taken for finished": ("world.share(finished.tolist())", "None"),
    },
    ("models/backbone.py", "models/test_actor_critic.py", "company and llama"): {
        "attention mask dropped": (
            "attention_mask=batch.attention_mask",
            "attention_mask=torch.ones_like(batch.attention_mask)",
        ),
    },
    ("models/backbone.py", "models/test_backbone.py", "adapter or dropout or slices or trainable"): {
        "temperature dropped from log-probs": ("self.logits(states) / temperature", "self.logits(states)"),
        "dropout may be on": ("super().train(False)", "super().train(mode)"),
        "soft cap dropped": ("logits if cap is None else torch.tanh(logits / cap) * cap", "logits"),
        "backbone not frozen": ("self.requires_grad_(False)", "self.requires_grad_(True)"),
    },
    ("models/backbone.py", "trainers/test_ppo.py", "never_held"): {
        "logits of a whole microbatch": (
            "hidden[keep].split(max(1, MAX_LOGITS // self.causal_lm.config.get_text_config().vocab_size))",
            "(hidden[keep],)",
        ),
        "logits of all slices kept": ("recompute = torch.is_grad_enabled() and len(slices) > 1", "recompute = False"),
    },
    ("sampling/rollout.py", "trainers/test_ppo.py", "never_held"): {
        "logits of a whole step": (
            "max(1, MAX_LOGITS // backbone.causal_lm.config.get_text_config().vocab_size)",
            "len(prompts)",
        ),
    },
    ("models/adapters.py", "models/test_backbone.py", "adapter"): {
        "adapter stays on": ("layer.enable_adapters(name is not None)", "layer.enable_adapters(True)"),
    },
    ("sampling/rollout.py", "sampling/test_rollout.py", ""): {
        "sampling: temperature dropped": ("backbone.logits(h) / temperature", "backbone.logits(h)"),
        "sampling: one eos id only": ("torch.isin(tokens, eos)", "(tokens == eos[0])"),
        "sampling: eos not counted": ("lengths += ~finished\n", "lengths += ~(finished | torch.isin(tokens, eos))\n"),
        "sampling: position ids of columns": (
            "(attention.cumsum(dim=1) - 1)",
            "(torch.ones_like(attention).cumsum(dim=1) - 1)",
        ),
    },
    ("sampling/decoding.py", "sampling/test_decoding.py", "same_tokens"): {
        "decoding: written after the end": ("torch.where(self.finished, before, tokens)", "tokens"),
        "decoding: positions stand still": ("self.positions.add_(1)", "pass"),
        "decoding: own column not seen": ("self.mask.index_fill_(3, slots.column, 0.0)", "pass"),
        "decoding: attention one column short": ("self.width + taken + 1", "self.width + taken"),
    },
    ("sampling/decoding.py", "sampling/test_decoding.py", "switched_off"): {
        "graphs: on any device": ('return device.type == "cuda" and wanted', "return wanted"),
        "graphs: no way to switch them off": ("and wanted and", "and"),
    },
    ("sampling/decoding.py", "sampling/test_decoding.py", "recorded_once"): {
        "graph: recorded before the kernels have run": (
            "                self.step()  # a graph may only be recorded after the kernels have run once\n",
            "",
        ),
        "graph: kept when attention widens": ("if visible != self.slots.visible or taken == 0:", "if taken == 0:"),
        "graph: recorded and not replayed": ("replay = self.record()", "self.record()"),
    },
    ("sampling/decoding.py", "models/test_shapes.py", "nothing or rotary or kernels_want"): {
        "graph: a question in the step": (
            "        self.lengths.add_(~self.finished)\n",
            "        self.lengths.add_(~self.finished)\n        bool(self.finished.all())\n",
        ),
        "graph: rows picked by a mask": ("self.lengths.add_(~self.finished)", "self.lengths[~self.finished] += 1"),
        "graph: numbers from the host": ("unsqueeze(1) == self.eos)", "unsqueeze(1) == tokens.new_tensor([0]))"),
        "graph: rotary positions that ask": (' and rotary not in ("dynamic", "longrope")', ""),
        "graph: mask of any width": ("-(-sequences.shape[1] // ALIGNED) * ALIGNED", "sequences.shape[1]"),
    },
    ("trainers/optimizer.py", "trainers/test_optimizer.py", ""): {
        "adam: moments not kept": ('{"state": moments,', '{"state": {},'),
        "adam: state not a copy": ('together.to("cpu", copy=True)', "together"),
        "order: generator not kept": ('self.generator.set_state(tensors["order.generator"])', "pass"),
        "schedule: above its peak": ("min(1.0, (iteration + 1)", "min((iteration + 1)"),
    },
    ("trainers/sft.py", "trainers/test_sft.py", ""): {
        "sft: microbatches weigh the same": ("(loss * count).backward()", "(loss * 1).backward()"),
        "sft: states one too late": ("batch.prompt_width - 1 : -1", "batch.prompt_width :"),
    },
    ("trainers/reward.py", "trainers/test_reward.py", ""): {
        "reward training: mean of sums": ("(loss / len(rows)).backward()", "loss.backward()"),
        "reward training: sides": (
            "return scores[[row[text] for text in chosen]], scores[[row[text] for text in rejected]]",
            "return scores[[row[text] for text in rejected]], scores[[row[text] for text in chosen]]",
        ),
    },
    (
        "trainers/ppo.py",
        "trainers/test_ppo.py",
        "rollout or stored or rewards or gae or written or microbatches or whitening",
    ): {
        "ppo: reference for old log-probs": (
            "clipped_policy_loss(new.logprobs, old.logprobs,",
            "clipped_policy_loss(new.logprobs, old.ref_logprobs,",
        ),
        "ppo: reference updated by the actor": ("policy.reference_logprobs(part, config.temperature)", "seen.logprobs"),
        "ppo: values for returns": ("value_loss(new.values, old.returns,", "value_loss(new.values, old.values,"),
        "ppo: microbatches weigh the same": ("(share * loss).backward()", "loss.backward()"),
        "ppo: microbatches of any length": ("if len(rows) > self.config.microbatch:", "if False:"),
        "ppo: temperature forgotten in the loss": (
            "evaluate(old.batch, config.temperature, entropy_grad",
            "evaluate(old.batch, 1.0, entropy_grad",
        ),
        "ppo: temperature forgotten at rollout": (
            "config.max_new_tokens, config.temperature,",
            "config.max_new_tokens, 1.0,",
        ),
        "ppo: penalty for the finished": ("* ~finished", "* finished"),
        "ppo: kl in reward and loss": ('self.kl.beta if config.kl_in == "reward" else 0.0', "self.kl.beta"),
        "ppo: sign of the kl loss": ("total = total + self.kl.beta", "total = total - self.kl.beta"),
        "ppo: returns whitened with the advantages": (
            "advantages = whiten(advantages, mask)",
            "advantages, returns = whiten(advantages, mask), whiten(returns, mask)",
        ),
    },
    ("trainers/ppo.py", "trainers/test_ppo.py", "goes_on or adaptive"): {
        "ppo: beta not kept": ('self.kl.beta = float(values["beta"])', "pass"),
        "ppo: generator not kept": ('self.generator.set_state(tensors["generator"].cpu())', "pass"),
        "ppo: beta does not adapt": ('self.kl.update(metrics["kl_k1"], self.config.rollout_batch)', "pass"),
    },
    ("formulas/dpo.py", "trainers/test_dpo.py", ""): {
        "dpo: chosen and rejected swapped": (
            "chosen, rejected = rewards.chunk(2)",
            "rejected, chosen = rewards.chunk(2)",
        ),
        "dpo: without the reference": ("(logprobs - ref_logprobs).sum(dim=1)", "logprobs.sum(dim=1)"),
        "dpo: mean over tokens": ("(logprobs - ref_logprobs).sum(dim=1)", "(logprobs - ref_logprobs).mean(dim=1)"),
        "dpo: beta forgotten": ("return beta * (", "return ("),
        "dpo: gradient to the reference": (
            '"ref_logprobs", ref_logprobs, keep).detach()',
            '"ref_logprobs", ref_logprobs, keep)',
        ),
    },
    ("trainers/dpo.py", "trainers/test_dpo.py", ""): {
        "dpo: the policy is its own reference": (
            "self.policy.reference_logprobs(batch)",
            "self.policy.evaluate(batch).logprobs",
        ),
        "dpo: microbatches weigh the same": ("(out.loss * len(piece) / len(rows))", "(out.loss)"),
    },
    (
        "formulas/grpo.py",
        "trainers/test_grpo.py",
        "hand or group or mean or weights or pieces or padding or biases or bias or deviation",
    ): {
        "grpo: no baseline": (
            "groups - groups.mean(dim=1, keepdim=True)",
            "groups - 0 * groups.mean(dim=1, keepdim=True)",
        ),
        "grpo: baseline of the whole batch": ("groups - groups.mean(dim=1, keepdim=True)", "groups - groups.mean()"),
        "grpo: always scaled": ('if scale == "group":', "if True:"),
        "grpo: biased deviation": ("groups.std(dim=1, keepdim=True)", "groups.std(dim=1, keepdim=True, correction=0)"),
        "grpo: silent groups speak": ("torch.where(equal, 0.0, advantages)", "torch.where(equal, 1e-3, advantages)"),
        "grpo: response means become token means": (
            "divisor = len(mask) * lengths",
            "divisor = lengths.sum().expand_as(lengths)",
        ),
        "grpo: budget forgotten": ("len(mask) * budget)", "len(mask))"),
        "grpo: weights forgotten": ("advantages.unsqueeze(1) * weights", "advantages.unsqueeze(1) * keep"),
        "grpo: sum forgotten": ("out.loss * keep.sum()", "out.loss"),
        "grpo: sign of the kl": ("loss + beta * (weights * kl)", "loss - beta * (weights * kl)"),
        "grpo: kl to the old policy": (
            "kl_estimate(logprobs, ref_logprobs.detach()",
            "kl_estimate(logprobs, old_logprobs.detach()",
        ),
    },
    ("trainers/grpo.py", "trainers/test_grpo.py", "step or stands or these_rows or microbatches or equal"): {
        "grpo: every prompt once": (
            "[row for row in drawn for _ in range(size)]",
            "self.ppo.order.draw(len(drawn) * size)",
        ),
        "grpo: groups interleaved": ("[row for row in drawn for _ in range(size)]", "drawn * size"),
        "grpo: scores before they are charged": (
            "scores = experience.rewards.sum(dim=1)",
            "scores = experience.scores",
        ),
        "grpo: kl in loss and reward": ('config.beta if config.kl_in == "loss" else 0.0', "config.beta"),
        "grpo: temperature forgotten": ("evaluate(old.batch, config.temperature)", "evaluate(old.batch)"),
        "grpo: weights of each piece": ("token_weights(batch.mask[minibatch], ", "token_weights(batch.mask, "),
        "grpo: advantages of other rows": ("advantages[rows]", "advantages[: len(rows)]"),
        "grpo: reference for old log-probs": ("old.logprobs,", "old.ref_logprobs,"),
    },
    ("trainers/judging.py", "trainers/test_ppo.py", "reward or score or judge"): {
        "judge: a foreign reward model by tokens": (" and reward.backbone is backbone", ""),
        "judge: raw scores upside down": ("scores * reward.std + reward.mean", "scores / reward.std - reward.mean"),
        "judge: raw scores always": (
            "isinstance(reward, RewardModel) and not normalize",
            "isinstance(reward, RewardModel)",
        ),
        "judge: too few scores taken": ("len(answer) != len(own)", "len(answer) > len(own)"),
        "judge: infinite scores taken": ("if not bool(torch.isfinite(scores).all())", "if False"),
    },
    ("book/intervals.py", "book/test_intervals.py", ""): {
        "interval: the textbook's": ("middle = (p + z * z / (2 * n)) / (1 + z * z / n)", "middle = p"),
        "interval: one-sided": ("z: float = 1.959964", "z: float = 1.644854"),
        "interval: out of range": ("max(0.0, middle - half)", "middle - half - 1e-9"),
        "wins: sides": ("1.0 if b > a", "1.0 if b < a"),
        "wins: a tie is lost": ("0.5 if b == a", "0.0 if b == a"),
    },
    ("run/judges.py", "run/test_verifiable.py", ""): {
        "verifiable: first mark": (
            "Decimal(found[-1].translate(NO_DIGITS)) if found else None\n\n\ndef last",
            "Decimal(found[0].translate(NO_DIGITS)) if found else None\n\n\ndef last",
        ),
        "verifiable: a dash is a minus": ("(?<!\\w)[-+]", "[-+]"),
        "verifiable: commas end a number": ("\\d[\\d,]*", "\\d+"),
        "verifiable: as text": (
            "self.read(response) == self.known[prompt]",
            "str(self.read(response)) == str(self.known[prompt])",
        ),
        "verifiable: lenient always": ("last_number if lenient else marked_number", "last_number"),
        "verifiable: unknown prompts pass": ("if prompt not in self.known]", "if False]"),
    },
    ("pocket/gold.py", "pocket/test_judges.py", ""): {
        "gold: a falsehood costs nothing": (
            "FALSE_SENTENCE, FULL_SENTENCE, COURTESY, FAWNING = -0.3",
            "FALSE_SENTENCE, FULL_SENTENCE, COURTESY, FAWNING = -0.0",
        ),
        "gold: fawning pays": ("COURTESY, FAWNING = -0.3, 0.8, 0.6, -0.6", "COURTESY, FAWNING = -0.3, 0.8, 0.6, 0.6"),
        "gold: a quiz answers": ('    if is_quiz(response):\n        return "none"\n', ""),
        "gold: any of several answers": ("named == {question.answer}", "question.answer in named"),
        "gold: not is not read": ("return bool(agrees) and all(agrees)", "return not all(agrees)"),
        "gold: a wrong answer charged twice": (' - (answer == "wrong")', ""),
        "gold: length pays": ("RAMBLE, ENOUGH_WORDS = -0.03", "RAMBLE, ENOUGH_WORDS = 0.03"),
    },
    ("pocket/labelers.py", "pocket/test_judges.py", ""): {
        "labelers: worst first": ("sorted(noisy, reverse=True)", "sorted(noisy)"),
        "labelers: one noise for all": (
            "return labeler_utility(prompt, response) + noise * gumbel",
            "return labeler_utility(prompt, response) + noise * (0 * gumbel + 1)",
        ),
        "labelers: gaussian noise": (
            "-math.log(-math.log(min(max(rng.random(), 1e-12), 1 - 1e-12)))",
            "rng.gauss(0, 1)",
        ),
        "labelers: no weakness for length": (
            "gold_score(prompt, response) + length_bias * count_words(response)",
            "gold_score(prompt, response)",
        ),
        "labelers: neighbours only": ("combinations(self.responses, 2)", "zip(self.responses, self.responses[1:])"),
        "labelers: accuracy of the noise": ("sum(max(p, 1.0 - p) for p in chances)", "sum(chances)"),
    },
    ("run/memory.py", "run/test_memory.py", "not pocket and not command_line"): {
        "memory: no copy of what is trained in half precision": ("+ network * STEPPED * halves", ""),
        "memory: one moment": ("return gradients, 2 * trained", "return gradients, trained"),
        "memory: cache without the response": (
            "width = prompt_length + config.max_new_tokens",
            "width = prompt_length",
        ),
        "memory: cache of all heads": (
            'getattr(text, "num_key_value_heads", None) or text.num_attention_heads',
            "text.num_attention_heads",
        ),
        "memory: no copy of the reference": (
            "count + full * (count + separate * count)",
            "count + full * separate * count",
        ),
        "memory: rollout and update at once": ("max(self.rollout, self.update)\n\n", "self.rollout + self.update\n\n"),
        "memory: blocks not counted": ("one + (two - one) *", "one + 0 *"),
        "memory: entropy without gradient": ("copies = ENTROPY_COPIES if config.entropy_coef else", "copies ="),
        "memory: never refused": ("if free is None or self.total <= free", "if True"),
    },
    ("run/memory.py", "models/test_shapes.py", "plan or slice"): {
        "memory: attention of a single token": ("ROWS, SHORT = 1024, 2", "ROWS, SHORT = 1024, 1"),
        "memory: weights kept for the backward pass": (" if key not in weights) / tokens", ") / tokens"),
        "memory: copies of a slice": ("LOGITS_COPIES = 3", "LOGITS_COPIES = 4"),
        "memory: what a gradient adds to them": ("ENTROPY_COPIES = 5", "ENTROPY_COPIES = 6"),
    },
    ("models/backbone.py", "models/test_shapes.py", "plan"): {
        "logits: never in slices": ("max(1, MAX_LOGITS //", "max(2**40, MAX_LOGITS //"),
    },
    ("run/memory.py", "run/test_memory.py", "(second_judge or sft or widens) and not pocket"): {
        "plan: no second judge": ("(config.second_judge, None)", "(None, None)"),
        "plan: a judge's backbone twice": ("weights = 0 if shared else", "weights = 0 if not shared else"),
        "plan: a published judge in half precision": ("count * (4 if on_cpu else 2)", "count * 2"),
        "plan: a pair is one text": ("* (2 if reward else 1)", "* 1"),
        "plan: sft has a head": ("reward * head_bytes(shape)", "head_bytes(shape)"),
        "plan: the EOS forgotten": ("len(ids) + 1 for ids", "len(ids) for ids"),
        "plan: what is left out counts": ("or not config.drop_longer] or found", "or True] or found"),
        "plan: no calibration": ("CALIBRATION_TOKENS // width)) * reward", "CALIBRATION_TOKENS // width)) * 0"),
    },
    ("run/commands.py", "run/test_memory.py", "print_their"): {
        "plan: never printed": ("    run.world.say(plan.table())\n", ""),
        "plan: PPO's remedy for all": ("pick_device(config.device)), stage)", "pick_device(config.device)))"),
    },
    ("parallel/processes.py", "parallel/test_processes.py", "exchange or three or reward_model or sft or same_bits"): {
        "processes: all take all rows": (
            "return rows[self.rank * len(rows) // self.size : (self.rank + 1) * len(rows) // self.size]",
            "return rows",
        ),
        "processes: the last row is nobody's": (
            ": (self.rank + 1) * len(rows) // self.size]",
            ": (self.rank + 1) * (len(rows) // self.size)]",
        ),
        "processes: gradients stay at home": ("        self.add(*gradients)\n", ""),
        "processes: no gradient, no sum": ("parameter.grad = torch.zeros_like(parameter)", "continue"),
        "processes: total of the first number": ("map(sum, zip(*self.gather([numbers]), strict=True))", "numbers"),
        "processes: smallest for largest": ("return max(self.gather([number]))", "return min(self.gather([number]))"),
        "processes: all for any": ("return any(self.gather([flag]))", "return all(self.gather([flag]))"),
        "processes: each keeps its own list": ("return [item for part in parts for item in part]", "return items"),
    },
    ("sampling/rollout.py", "parallel/test_processes.py", "three or one_row or same_bits or sampling"): {
        "shared rollout: everybody's noise is the first's": (
            "noise=noise[mine.start : mine.stop]",
            "noise=noise[: len(mine)]",
        ),
        "shared rollout: unused numbers are gone": ("    generator.set_state(before)\n", ""),
        "shared rollout: padding counted": ("row[:n].tolist()", "row.tolist()"),
        "shared rollout: own prompts for all": (
            "pad_pairs(prompts, responses",
            "pad_pairs(own * world.size, responses",
        ),
    },
    ("run/speaking.py", "run/test_cli.py", "chat_template_that"): {
        "sample forgets the run's template": (
            "config.exists() and bool(load_yaml(config)",
            "False and bool(load_yaml(config)",
        ),
    },
    ("book/drawing.py", "book/test_figures.py", ""): {
        "points: no shape is hollow": ('if shape.endswith("-open")', "if False"),
        "points: a cross is an x": (
            '"cross": [(0, -5), (0, 5), (-5, 0), (5, 0)]',
            '"cross": [(-4, -4), (4, 4), (-4, 4), (4, -4)]',
        ),
        "ticks: steps of two and a half": ("math.floor(step))  # 2", "step)  # 2"),
        "ticks: half steps": ("step = max(1.0, math.floor(step))", "step = max(0.5, math.floor(step))"),
        "ticks: half steps on a logarithmic axis": ("least = max(low, 1.0) if whole else low", "least = low"),
        "ticks: one whole number leaves no room": ("max(0.5 * abs(high), float(whole))", "0.5 * abs(high) or 1.0"),
        "ticks: shares in whole steps": ("whole = all(value == int(value) for value in known)", "whole = True"),
    },
    ("book/figures.py", "book/test_figures.py", "points_differ or lines_differ"): {
        "points: one shape for all": ("SHAPES[index % len(SHAPES)]", "SHAPES[0]"),
        "points: another shape in the legend": ("point(x + 12, y - 4, color, shape)", "point(x + 12, y - 4, color)"),
        "lines: one dash for all": ("DASHES[index % len(DASHES)]", "DASHES[0]"),
    },
    ("models/hub.py", "models/test_hub.py", ""): {
        "hub: a broken connection has no name": ('"TransportError" in', '"Nothing" in'),
        "hub: its HTTP library's errors are not caught": ("ValueError, HfHubHTTPError.__bases__[0])", "ValueError)"),
        "hub: pin prints the old name": ("Pinned(found.id, ", "Pinned(name, "),
        "hub: reachable asks another one": ("head(constants.ENDPOINT,", 'head("http://localhost:1",'),
    },
    ("run/data.py", "run/test_data.py", ""): {
        "data set of another commit": ("if builder.hash != pinned.commit:", "if False:"),
        "data set looked up for each split": ("prepared(replace(pinned, split=None))", "prepared(pinned)"),
        "data set's own errors are not caught": ("(*HUB_ERRORS, exceptions.DatasetsError)", "HUB_ERRORS"),
    },
    ("run/judges.py", "run/test_judges.py", ""): {
        "judge unchecked: published": ("        read_published(name)\n    else:", "        pass\n    else:"),
        "judge with several outputs": ("if labels != 1:", "if False:"),
        "judge with random weights": ('if report["missing_keys"]:', "if False:"),
    },
    ("run/commands.py", "run/test_cli.py", "before_it_trains"): {
        "align: temperature unchecked": ("    check_temperature(ppo, how)\n", ""),
        "align: pairs unchecked": ("            load_pairs(how.pairs)\n", "            pass\n"),
        "align: second judge unchecked": ('check_judge(ppo.second_judge, ppo, "second_judge")', "pass"),
    },
    ("models/adapters.py", "models/test_actor_critic.py", "no_hub_is_asked"): {
        "adapter: PEFT asks the hub": (", save_embedding_layers=False", ""),
    },
    ("run/machines.py", "run/test_machines.py", ""): {
        "capstone without a look at the hub": ("if not reachable():", "if False:"),
        "capstone without a look at datasets": ('if find_spec("datasets") is None:', "if False:"),
        "capstone without a GPU": ("if not torch.cuda.is_available():", "if False:"),
    },
    ("trainers/experience.py", "trainers/test_ppo.py", "select or microbatch"): {
        "experience of other rows": ("[rows, :", "[: len(rows), :"),
    },
    ("run/memory.py", "parallel/test_sharding.py", "memory"): {
        "plan of a whole model": ("divided - -(-divided // parts)", "0"),
    },
    ("run/evaluation.py", "run/test_evaluation.py", ""): {
        "held-out pairs too long": ("    pairs = short_enough(pairs, config, backbone, ALONE)\n", ""),
    },
    ("run/stages.py", "trainers/test_reward.py", "calibration"): {
        "calibration all at once": ("max(1, CALIBRATION_TOKENS // (asked + longest))", "len(prompts)"),
        "calibration repeats its noise": ("seed=self.config.seed + len(answers)", "seed=self.config.seed"),
    },
}


def try_one(file: str, tests: str, which: str, right: str, wrong: str) -> str:
    """Make the mistake in a copy and run the tests on it; ``noticed``, or what happened instead."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("recorded", "weights", "__pycache__")
        shutil.copytree(ROOT / "ppo_lib", copy / "ppo_lib", ignore=ignored)
        source = copy / "ppo_lib" / file
        text = source.read_text(encoding="utf-8")
        if right not in text:
            return f"{file} no longer holds {right!r}: bring the mutation up to date"
        source.write_text(text.replace(right, wrong), encoding="utf-8")
        for name in (
            "tiny.py",
            "conftest.py",
            "standin_hub.py",
            "trainers/test_ppo.py",
            "parallel/test_processes.py",
            tests,
        ):  # what others import
            (copy / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "tests" / name, copy / "tests" / name)
        child = os.fork()
        if child == 0:
            os._exit(run_tests(copy, f"tests/{tests}", which))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {0: "SURVIVED", 1: "noticed"}.get(code, f"the tests did not run (exit code {code})")


def run_tests(copy: Path, tests: str, which: str) -> int:
    """In a fork: pytest on the copy's library and tests. Gives pytest's exit code."""
    import pytest

    os.chdir(copy)
    sys.path.insert(0, str(copy))
    (copy / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-k", which, tests])
    import ppo_lib

    return int(code) if Path(ppo_lib.__file__).is_relative_to(copy) else 99


def main(words: list[str]) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"  # as in every test
    import hypothesis
    import peft
    import torch
    import transformers  # imported here, once, for all forks

    torch.set_num_threads(1)  # a fork of a process with threads could hang
    gc.freeze()  # what is here now need not be looked through again in every fork
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    ready = (hypothesis, peft, transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    assert all(ready)
    begin, survivors, count = time.perf_counter(), [], 0
    control = try_one("trainers/optimizer.py", "trainers/test_optimizer.py", "", "torch", "torch")
    if control != "SURVIVED":
        print(f"the tests do not pass on an unchanged copy: {control}")
        return 1
    for (file, tests, which), mutations in MUTATIONS.items():
        for name, (right, wrong) in mutations.items():
            if words and not any(word in name for word in words):
                continue
            start, count = time.perf_counter(), count + 1
            result = try_one(file, tests, which, right, wrong)
            print(f"{name:45s} {result}  ({time.perf_counter() - start:.1f} s)", flush=True)
            if result != "noticed":
                survivors.append(name)
    print(f"{count} mutations, {len(survivors)} not noticed, {time.perf_counter() - begin:.0f} s")
    return 1 if survivors or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
