"""Do the tests notice? Each mistake below is made on purpose in a copy of the library, and must turn a test red.

    python tests/mutations.py            # all of them, one line each; exit code 1 when one survives
    python tests/mutations.py gae clip   # those whose name holds one of the words

A row names the mistake, the function, what stands there, and what shall stand there instead; ``mutating.py`` says how
patterns are written. Neither the module of the function nor the folder of the tests is named, so both may move.
Heavy packages are imported once, and every mistake is tried in a fork of this process, one for each processor. The
tests that turned red must at last pass on an unchanged copy.
"""

import gc
import os
import sys
from pathlib import Path

from mutating import Mutation, MutationError, Package, Table, try_all

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())

# (test module that must notice, which of its tests): mistakes
MUTATIONS: Table = {
    ("test_losses", ""): [
        Mutation("sft: sign", "sft_loss", "F.cross_entropy(...)", "-F.cross_entropy(...)"),
        Mutation("sft: no shift", "sft_loss", "logits[:, :-1]", "logits[:, 1:]"),
        Mutation("bradley-terry: sign", "bradley_terry_loss", "-F.logsigmoid(_).mean()", "F.logsigmoid(_).mean()"),
        Mutation("bradley-terry: sides", "bradley_terry_loss", "chosen - rejected", "rejected - chosen"),
        Mutation("policy gradient: sign", "policy_gradient_loss", "-masked_mean(...)", "masked_mean(...)"),
        Mutation(
            "policy gradient: through advantages",
            "policy_gradient_loss",
            "fill_padding('advantages', ...).detach()",
            "fill_padding('advantages', ...)",
        ),
        Mutation("clip: sign", "clipped_policy_loss", "-masked_mean(...)", "masked_mean(...)"),
        Mutation("clip: min becomes max", "clipped_policy_loss", "torch.minimum", "torch.maximum"),
        Mutation("clip: not at all", "clipped_policy_loss", "ratio.clamp(...)", "ratio"),
        Mutation(
            "clip: ratio upside down", "clipped_policy_loss", "logprobs - old_logprobs", "old_logprobs - logprobs"
        ),
        Mutation(
            "clip: gradient through advantages",
            "clipped_policy_loss",
            "fill_padding('advantages', ...).detach()",
            "fill_padding('advantages', ...)",
        ),
        Mutation("dual clip: everywhere", "clipped_policy_loss", "advantages < 0", "advantages < 9e9"),
        Mutation("dual clip: not counted", "clipped_policy_loss", "cut | (floor > objective)", "cut"),
        Mutation("value loss: sign", "value_loss", "masked_mean(...)", "-masked_mean(...)"),
        Mutation(
            "value loss: one half", "value_loss", "(values - returns).square()", "(values - returns).square() / 2"
        ),
        Mutation("value clip: min of errors", "value_loss", "torch.maximum", "torch.minimum"),
        Mutation("total: critic's sign", "ppo_loss", "_ + value_coef * value_loss", "_ - value_coef * value_loss"),
        Mutation("total: entropy's sign", "ppo_loss", "_ - entropy_coef * entropy", "_ + entropy_coef * entropy"),
        Mutation("entropy: sign", "entropy", "-(p * _).sum(dim=-1)", "(p * _).sum(dim=-1)"),
        Mutation("entropy: padding reaches the gradient", "entropy", "torch.where(_, logits, 0.0)", "logits"),
    ],
    ("test_recomputing", "llama or acts or twice"): [
        Mutation(
            "recompute: in the role of the day",
            "in_role",
            "if acting != adapter: switch_adapter(block, adapter)",
            "pass",
        ),
        Mutation("recompute: the role stays", "in_role", "switch_adapter(block, acting)", "pass"),
        Mutation("recompute: blocks stay changed", "recomputed", "del block.forward", "pass"),
    ],
    ("test_recomputing", "each_stage"): [
        Mutation(
            "recompute: the key is read and forgotten", "stages:build", "backbone.gradient_checkpointing = _", "pass"
        ),
    ],
    ("test_recomputing", "twice"): [
        Mutation("recompute: not in a copy", "Backbone.copy", "copy.gradient_checkpointing = _", "pass"),
        Mutation("recompute: not at all", "Backbone.hidden_states", "self.gradient_checkpointing and _", "False and _"),
    ],
    ("test_prefix", ""): [
        Mutation("prefix: a token too many", "shared_prefix", "min(alike, _ - 1)", "alike"),
        Mutation("prefix: padding seen", "prefix_layout", "(columns < shared) | _", "(columns >= 0) & _"),
        Mutation("prefix: padding in front", "prefix_layout", "columns >= shared + padding", "columns >= shared"),
        Mutation("prefix: tokens see the next", "causal_mask", "columns <= columns[first:, None]", "columns >= 0"),
        Mutation(
            "prefix: never off",
            "Backbone.worth_sharing",
            "self.share_prefix and self.sees_everything and not self.world.sharded",
            "self.sees_everything",
        ),
        Mutation(
            "prefix: windows too",
            "Backbone.worth_sharing",
            "self.share_prefix and self.sees_everything and not self.world.sharded",
            "self.share_prefix",
        ),
        Mutation("prefix: not in a copy", "Backbone.copy", "copy.share_prefix = _", "pass"),
    ],
    ("test_loss_scale", ""): [
        Mutation("scale: not undone", "Optimizer.step", "if self.scaling: torch._foreach_div_(...)", "pass"),
        Mutation(
            "scale: losses as they are",
            "Optimizer.backward",
            "loss * self.loss_scale if self.scaling else loss",
            "loss",
        ),
        Mutation("scale: kept after an overflow", "Optimizer.step", "self.loss_scale / 2", "self.loss_scale * 1"),
        Mutation("scale: not put back", "Optimizer.load_state", "self.good = int(good)", "pass"),
    ],
    ("test_host_requests", "update"): [
        Mutation(
            "roles: switched at each pass", "PPOTrainer.update", "self.policy.acting()", "self.backbone.adapter(None)"
        ),
    ],
    ("test_prefix", "sampling"): [
        Mutation("prefix: sampled with another mask", "decode", "attention[:, :width] = prefix_layout(...)", "pass"),
    ],
    ("test_norms", ""): [
        Mutation("norms: by their name alone", "quicken_norms", "_ and agrees(m)", "_"),
        Mutation("norms: for good", "quicken_norms", "RMSNorm if wanted else own", "RMSNorm"),
    ],
    ("test_optimizer", "share_of"): [
        Mutation("optimizer: no schedule", "Optimizer.step", "self.learning_rate * scale", "self.learning_rate"),
    ],
    ("test_sft", "mean_over or schedule"): [
        Mutation("sft: a sum of tokens", "SFTTrainer.step", "parameter.grad /= tokens", "pass"),
        Mutation("sft: another rate is told", "SFTTrainer.step", "self.config.learning_rate * rate", "rate"),
    ],
    ("test_dpo", "schedule"): [
        Mutation(
            "dpo: another rate is told",
            "DPOTrainer.step",
            "self.config.learning_rate * rate",
            "self.config.learning_rate",
        ),
    ],
    ("test_rotation", ""): [
        Mutation("rotation: by its name alone", "rebound", "_ and agrees(...)", "_"),
        Mutation("rotation: for good", "quicken_rotation", "quick if wanted else own", "quick"),
        Mutation(
            "rotation: the gradient turned on",
            "Turned.backward",
            "_.addcmul_(first, ..., value=-1)",
            "_.addcmul_(first, sin.chunk(2, -1)[0])",
        ),
        Mutation("rotation: not in a copy", "Backbone.copy", "copy.fuse_blocks(...)", "pass"),
        Mutation("rotation: norms alone", "Backbone.fuse_blocks", "quicken_rotation(...)", "pass"),
    ],
    ("test_lora", ""): [
        Mutation(
            "lora: scale of B", "Adapted.backward", "torch.addmm(b, ..., alpha=scale)", "torch.addmm(b, ..., alpha=1)"
        ),
        Mutation("lora: A's part of x", "Adapted.backward", "times(_1, _2).addmm_(...)", "times(_1, _2)"),
        Mutation("lora: no bias", "by_weight", "y if bias is None else _", "y"),
        Mutation("merged: not in a copy", "Backbone.copy", "copy.merge_adapter = _", "pass"),
        Mutation("merged: no scale", "merged_weight", "torch.addmm(..., alpha=_)", "torch.addmm(..., alpha=1)"),
        Mutation("merged: never given up", "merged", "layer.whole = None", "pass"),
        Mutation(
            "merged: sharded too",
            "Backbone.merges",
            "wanted and self.fused_lora and not _",
            "wanted and self.fused_lora",
        ),
        Mutation("lora: trained weights", "plainly", "_ or base.weight.requires_grad or ...", "_"),
        Mutation("scored: temperature's gradient", "Scored.backward", "gradient / ctx.temperature", "gradient"),
        Mutation("scored: the token's own part", "Scored.backward", "_.scatter_add_(...)", "_"),
    ],
    ("test_backbone", "half_precision"): [
        Mutation(
            "adapter: float32 on bfloat16 weights", "adapter_dtype", "torch.float32 if _ else weights", "torch.float32"
        ),
        Mutation("adapter: float16", "adapter_dtype", "torch.float32 if _ else weights", "weights"),
    ],
    ("test_linear", "backbone"): [
        Mutation("onednn: not for weights", "Backbone.__init__", "quicken(causal_lm)", "pass"),
        Mutation("onednn: not for adapters", "add_adapter", "quicken(causal_lm)", "pass"),
    ],
    ("test_linear", ""): [
        Mutation(
            "onednn: gradient of the input",
            "Product.backward",
            "product(gradient, weight.t())",
            "product(gradient, weight.t()) * 2",
        ),
        Mutation(
            "onednn: gradient of the weight", "Product.backward", "product(rows.t(), _)", "product(rows.t(), 2 * _)"
        ),
        Mutation("onednn: keeps what no gradient needs", "Product.forward", "x if _ else None", "x"),
        Mutation("onednn: bias forgotten", "Linear.forward", "y if _ else y + self.bias", "y"),
        Mutation(
            "onednn: bfloat16 too", "by_onednn", "x.dtype == weight.dtype == torch.float32", "x.dtype == weight.dtype"
        ),
        Mutation("onednn: no switch", "by_onednn", "torch._C._get_mkldnn_enabled()", "True"),
        Mutation(
            "onednn: subclasses lose their forward",
            "quicken",
            "type(module) is nn.Linear",
            "isinstance(module, nn.Linear)",
        ),
    ],
    ("test_kl", ""): [
        Mutation("kl: direction", "kl_estimate", "logprobs - ref_logprobs", "ref_logprobs - logprobs"),
        Mutation("kl: k3 without its control variate", "_FORMULAS", "torch.expm1(-d) + d", "torch.expm1(-d)"),
        Mutation(
            "kl: padding reaches the gradient", "kl_estimate", "formula(torch.where(finite, d, 0.0))", "formula(d)"
        ),
        Mutation("kl: exact, of the other side", "_kl_exact", "logp - logq", "logq - logp"),
        Mutation("adaptive beta: sign", "AdaptiveKL.update", "1 + error * _", "1 - error * _"),
        Mutation(
            "adaptive beta: no limit for huge batches",
            "AdaptiveKL.update",
            "min(n / self.horizon, 1.0)",
            "n / self.horizon",
        ),
    ],
    ("test_rewards", ""): [
        Mutation("reward: sign of the kl", "augmented_rewards", "-beta", "beta"),
        Mutation("reward: score one token early", "last_token_index", "lengths - 1", "(lengths - 2).clamp(min=0)"),
        Mutation("reward: score on the first token", "last_token_index", "lengths - 1", "0 * lengths"),
        Mutation(
            "reward: kl with a gradient",
            "augmented_rewards",
            "fill_padding('kl', ...).detach()",
            "fill_padding('kl', ...)",
        ),
    ],
    ("test_advantages", ""): [
        Mutation("gae: off by one", "td_errors", "[values[:, 1:], _]", "[values[:, :-1], values[:, :1]]"),
        Mutation("gae: no value of what follows", "td_errors", "gamma * next_values", "0 * next_values"),
        Mutation("gae: value after the end", "td_errors", "torch.zeros_like(values[:, :1])", "values[:, -1:]"),
        Mutation("gae: lambda forgotten", "advantages:gae", "gamma * lam", "gamma"),
        Mutation("gae: gamma forgotten", "advantages:gae", "gamma * lam", "lam"),
        Mutation("gae: returns without values", "advantages:gae", "advantages + _", "advantages + 0 * _"),
        Mutation("gae: forwards", "_discounted_sum", "reversed(_)", "_"),
    ],
    ("test_masking", ""): [
        Mutation("mean: mask dropped", "masked_mean", "_.sum() / keep.sum()", "_.mean()"),
        Mutation("mean: per row", "masked_mean", "keep.sum()", "len(keep)"),
        Mutation("padding multiplied instead of replaced", "fill_padding", "torch.where(keep, x, _)", "x * keep"),
        Mutation("variance: biased", "masked_var", "count - 1", "count"),
        Mutation("whitening: padding is not zero", "whiten", "torch.where(keep, whitened, _)", "whitened"),
    ],
    ("test_tokens", ""): [
        Mutation("batch: mask one token short", "TokenBatch.mask", "columns < _", "columns + 1 < _"),
        Mutation("batch: prompt padding attended", "TokenBatch.attention_mask", "(columns >= first) & _", "_"),
        Mutation("batch: eos not appended", "pair_ids", "[*ids, eos_token_id]", "[*ids]"),
        Mutation(
            "batch: prompts padded on the right", "pad_pairs", "row[width - len(prompt) : width]", "row[: len(prompt)]"
        ),
    ],
    ("test_actor_critic", "company and llama or company and gpt2"): [
        Mutation(
            "position ids dropped",
            "TokenBatch.position_ids",
            "(self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)",
            "self.attention_mask.cumsum(1) * 0",
        ),
        Mutation(
            "position ids of columns",
            "TokenBatch.position_ids",
            "self.attention_mask.cumsum(dim=1)",
            "torch.ones_like(self.attention_mask).cumsum(1)",
        ),
    ],
    ("test_actor_critic", "reference or temperature or last_counted or scored_by"): [
        Mutation(
            "states one too late", "Role.forward", "_[:, batch.prompt_width - 1 : -1]", "_[:, batch.prompt_width :]"
        ),
        Mutation(
            "reference with its adapter on",
            "ActorCritic.reference_logprobs",
            "self.reference(batch)",
            "self.actor(batch)",
        ),
        Mutation(
            "reference without temperature",
            "ActorCritic.reference_logprobs",
            "self.backbone.token_logprobs(..., temperature)",
            "self.backbone.token_logprobs(...)",
        ),
    ],
    ("test_layouts", "counted or shares_no or loaded"): [
        Mutation(
            "layouts: separate critic reads the actor",
            "ActorCritic._values",
            "actor_states if _ else self.critic(batch)",
            "actor_states",
        ),
        Mutation(
            "layouts: critic loaded as the actor",
            "ActorCritic.from_pretrained",
            "{'critic': folder / 'critic'}",
            "{'critic': folder}",
        ),
        Mutation("layouts: copies stay frozen", "ActorCritic.__init__", "parameter.requires_grad_(True)", "pass"),
    ],
    ("test_layouts", "bfloat16"): [
        Mutation("adam: steps rounded to bfloat16", "at_least_float32", "tensor if _ else tensor.float()", "tensor"),
        Mutation("adam: copies not written back", "Optimizer._round", "_.copy_(master)", "pass"),
    ],
    ("test_sharding", "three"): [
        Mutation("adam: gradient norm of this process alone", "Optimizer._norm", "_.add(squares)", "pass"),
        Mutation(
            "sharding: gradients averaged",
            "divide",
            "_.set_gradient_divide_factor(1.0)",
            "_.set_gradient_divide_factor(3.0)",
        ),
    ],
    ("test_actor_critic", "last_counted or calibration or cut_off or context"): [
        Mutation(
            "score at the last column",
            "RewardModel.forward",
            "last_token_index(batch.mask)",
            "0 * last_token_index(batch.mask) + batch.responses.shape[1] - 1",
        ),
        Mutation("scores not normalised", "RewardModel.score_batch", "(raw - self.mean) / self.std", "raw"),
        Mutation("cut-off responses scored with an EOS", "RewardModel.scores", "finished is not None", "False"),
    ],
    ("test_ppo", "told_which or same_scores or main_judge"): [
        Mutation("judge: cut-off responses taken for finished", "own_scores", "_.share(finished.tolist())", "None"),
        Mutation(
            "watch: cut-off responses taken for finished",
            "watch",
            "finished if isinstance(monitor, RewardModel) else None",
            "None",
        ),
    ],
    ("test_actor_critic", "company and llama"): [
        Mutation(
            "attention mask dropped",
            "Backbone.hidden_states",
            "batch.attention_mask",
            "torch.ones_like(batch.attention_mask)",
        ),
    ],
    ("test_backbone", "adapter or dropout or slices or trainable"): [
        Mutation(
            "temperature dropped from log-probs",
            "Backbone.token_logprobs",
            "logits if temperature == 1 else logits / temperature",
            "logits",
        ),
        Mutation("dropout may be on", "Backbone.train", "super().train(False)", "super().train(mode)"),
        Mutation("soft cap dropped", "Backbone.logits", "logits if cap is None else _", "logits"),
        Mutation("backbone not frozen", "Backbone.__init__", "self.requires_grad_(False)", "self.requires_grad_(True)"),
    ],
    ("test_ppo", "never_held"): [
        Mutation(
            "logits of a whole microbatch", "Backbone.token_logprobs", "hidden[counted].split(_)", "(hidden[counted],)"
        ),
        Mutation(
            "logits of all slices kept",
            "Backbone.token_logprobs",
            "torch.is_grad_enabled() and len(slices) > 1",
            "False",
        ),
        Mutation("logits of a whole step", "pick", "max(1, MAX_LOGITS // _)", "len(hidden)"),
    ],
    ("test_backbone", "adapter"): [
        Mutation("adapter stays on", "switch_adapter", "name is None", "False"),
    ],
    ("test_recomputing", "visits_the_layers"): [
        Mutation("adapter: layers looked for once and for all", "add_adapter", "_layers.clear()", "pass"),
    ],
    ("test_actor_critic", "random_half"): [
        Mutation("critic: begins as the actor", "ActorCritic.__init__", "seed + CRITIC_SEED", "seed"),
    ],
    ("test_intervals", "covers_the_truth"): [
        Mutation("interval: pairs of a ranking independent", "proportion_of_groups", "max(1.0, _)", "1.0"),
    ],
    ("test_sft", "evaluated_in_microbatches"): [
        Mutation("sft: evaluation of equal microbatches", "SFTTrainer.evaluate", "float(loss) * count", "float(loss)"),
    ],
    ("test_masking", "trusted"): [
        Mutation("trusted: for ever", "trusted", "_TRUSTED.reset(token)", "pass"),
        Mutation("trusted: never", "trusted", "_TRUSTED.set(True)", "_TRUSTED.set(False)"),
    ],
    ("test_world", "prepared"): [
        Mutation("gpu: not prepared", "World.place", "prepare(...)", "pass"),
    ],
    ("test_microbatches", ""): [
        Mutation("meter: microbatches weigh the same", "Meter.add", "weight * part.detach().double()", "part.double()"),
        Mutation(
            "meter: first error unseen", "Meter.first_error", "_.largest(float(torch.stack(self.errors).max()))", "0.0"
        ),
        Mutation("meter: mean of sums", "Meter.means", "_.total(float(total))[0] / self.steps", "float(total)"),
        Mutation("minibatches: never shuffled", "minibatches", "if epoch: ...", "pass"),
        Mutation("minibatches: another order for the first epoch", "minibatches", "if epoch: ...", "..."),
    ],
    ("test_ppo", "first_minibatch or no_excuse or lists_of_its_own"): [
        Mutation(
            "look again: other columns",
            "PPOTrainer.look_again",
            "seen[:, _, : part.responses.shape[1]] = columns",
            "seen[:, _, -part.responses.shape[1] :] = columns",
        ),
        Mutation("judge: its lists are ours", "own_scores", "function(asked, list(own))", "function(prompts, texts)"),
        Mutation("first ratio: float64 is half", "PPOTrainer.check_first_ratio", "_.itemsize < 4", "_.itemsize != 4"),
    ],
    ("test_grpo", "false_alarm"): [
        Mutation("grpo: weights of other rows", "GRPOTrainer.update", "weights[rows_on(...)]", "weights[: len(rows)]"),
    ],
    ("test_rollout", ""): [
        Mutation("sampling: temperature dropped", "pick", "backbone.logits(_) / temperature", "backbone.logits(_)"),
        Mutation("sampling: one eos id only", "decode", "torch.isin(tokens, eos)", "tokens == eos[0]"),
        Mutation(
            "sampling: eos not counted",
            "decode",
            "lengths += ~finished",
            "lengths += ~(finished | torch.isin(tokens, eos))",
        ),
        Mutation(
            "sampling: position ids of columns",
            "decode",
            "attention.cumsum(dim=1)",
            "torch.ones_like(attention).cumsum(dim=1)",
        ),
    ],
    ("test_decoding", "same_tokens"): [
        Mutation("decoding: written after the end", "Decoder.step", "torch.where(self.finished, _, tokens)", "tokens"),
        Mutation("decoding: positions stand still", "Decoder.step", "self.positions.add_(1)", "pass"),
        Mutation("decoding: own column not seen", "Decoder.step", "self.mask.index_fill_(...)", "pass"),
        Mutation("decoding: attention one column short", "Decoder.run", "self.width + taken + 1", "self.width + taken"),
    ],
    ("test_decoding", "switched_off"): [
        Mutation("graphs: on any device", "by_graphs", "device.type == 'cuda' and ...", "True and ..."),
        Mutation("graphs: no way to switch them off", "by_graphs", "_1 and wanted and _2", "_1 and _2"),
    ],
    ("test_decoding", "recorded_once"): [
        Mutation("graph: recorded before the kernels have run", "Decoder.run", "self.step()", "pass"),
        Mutation("graph: kept when attention widens", "Decoder.run", "visible != self.slots.visible or _", "_"),
        Mutation("graph: recorded and not replayed", "Decoder.run", "replay = self.record()", "self.record()"),
    ],
    ("test_shapes", "nothing or rotary or kernels_want"): [
        Mutation(
            "graph: a question in the step",
            "Decoder.step",
            "self.lengths.add_(~self.finished)",
            "self.lengths.add_(~self.finished); bool(self.finished.all())",
        ),
        Mutation(
            "graph: rows picked by a mask",
            "Decoder.step",
            "self.lengths.add_(~self.finished)",
            "self.lengths[~self.finished] += 1",
        ),
        Mutation("graph: numbers from the host", "Decoder.ends", "self.eos", "tokens.new_tensor([0])"),
        Mutation(
            "graph: rotary positions that ask",
            "sees_everything",
            "_1 and _2 and _3 and not rotary_kinds(text) & CHANGING_ROTARY",
            "_1 and _2 and _3",
        ),
        Mutation(
            "graph: mask of any width",
            "Decoder.__init__",
            "-(-sequences.shape[1] // ALIGNED) * ALIGNED",
            "sequences.shape[1]",
        ),
    ],
    ("test_optimizer", ""): [
        Mutation(
            "adam: moments not kept",
            "Optimizer.load_state",
            "{'state': moments, 'param_groups': _}",
            "{'state': {}, 'param_groups': _}",
        ),
        Mutation("adam: state not a copy", "Optimizer._saved", "together.to('cpu', copy=True)", "together"),
        Mutation("order: generator not kept", "Order.load_state", "self.generator.set_state(_)", "pass"),
        Mutation("schedule: above its peak", "warmup_then_decay", "min(1.0, ...)", "min(...)"),
    ],
    ("test_sft", ""): [
        Mutation(
            "sft: microbatches weigh the same",
            "SFTTrainer.step",
            "self.optimizer.backward(loss * count)",
            "(loss * 1).backward()",
        ),
        Mutation(
            "sft: states one too late",
            "SFTTrainer.loss",
            "_[:, batch.prompt_width - 1 : -1]",
            "_[:, batch.prompt_width :]",
        ),
    ],
    ("test_reward", ""): [
        Mutation(
            "reward training: mean of sums",
            "RewardTrainer.step",
            "self.optimizer.backward(loss / len(rows))",
            "loss.backward()",
        ),
        Mutation("reward training: sides", "RewardTrainer.score_pairs", "return _1, _2", "return _2, _1"),
    ],
    ("test_ppo", "rollout or stored or rewards or gae or written or microbatches or whitening"): [
        Mutation(
            "ppo: reference for old log-probs",
            "PPOTrainer.loss",
            "clipped_policy_loss(new.logprobs, old.logprobs, ...)",
            "clipped_policy_loss(new.logprobs, old.ref_logprobs, ...)",
        ),
        Mutation(
            "ppo: reference updated by the actor",
            "PPOTrainer.look_again",
            "self.policy.reference_logprobs(...)",
            "now.logprobs",
        ),
        Mutation(
            "ppo: values for returns",
            "PPOTrainer.loss",
            "value_loss(_, old.returns, ...)",
            "value_loss(_, old.values, ...)",
        ),
        Mutation("ppo: microbatches weigh the same", "PPOTrainer.update", "weight * loss", "loss"),
        Mutation("ppo: microbatches of any length", "microbatches", "len(rows) > size", "False"),
        Mutation("ppo: temperature forgotten in the loss", "PPOTrainer.loss", "config.temperature", "1.0"),
        Mutation(
            "ppo: temperature forgotten at rollout",
            "PPOTrainer.roll_out",
            "config.temperature",
            "1.0",
        ),
        Mutation("ppo: penalty for the finished", "PPOTrainer.collect", "~finished", "finished"),
        Mutation("ppo: kl in reward and loss", "PPOTrainer.collect", "self.kl.beta if _ else 0.0", "self.kl.beta"),
        Mutation("ppo: sign of the kl loss", "PPOTrainer.loss", "total + self.kl.beta * _", "total - self.kl.beta * _"),
        Mutation(
            "ppo: returns whitened with the advantages",
            "PPOTrainer.collect",
            "advantages = whiten(advantages, mask)",
            "advantages, returns = whiten(advantages, mask), whiten(returns, mask)",
        ),
    ],
    ("test_ppo", "goes_on or adaptive"): [
        Mutation("ppo: beta not kept", "PPOTrainer.load_state", "self.kl.beta = _", "pass"),
        Mutation("ppo: generator not kept", "PPOTrainer.load_state", "set_generator(self.generator, _)", "pass"),
        Mutation("ppo: beta does not adapt", "PPOTrainer.step", "self.kl.update(...)", "pass"),
    ],
    ("test_dpo", ""): [
        Mutation("dpo: chosen and rejected swapped", "dpo_loss", "chosen, rejected = _", "rejected, chosen = _"),
        Mutation("dpo: without the reference", "implicit_rewards", "logprobs - ref_logprobs", "logprobs"),
        Mutation(
            "dpo: mean over tokens",
            "implicit_rewards",
            "(logprobs - ref_logprobs).sum",
            "(logprobs - ref_logprobs).mean",
        ),
        Mutation("dpo: beta forgotten", "implicit_rewards", "beta * _", "_"),
        Mutation(
            "dpo: gradient to the reference",
            "implicit_rewards",
            "fill_padding('ref_logprobs', ...).detach()",
            "fill_padding('ref_logprobs', ...)",
        ),
        Mutation(
            "dpo: the policy is its own reference",
            "DPOTrainer.loss",
            "self.policy.reference_logprobs(batch)",
            "self.policy.evaluate(batch).logprobs",
        ),
        Mutation(
            "dpo: microbatches weigh the same", "DPOTrainer.step", "out.loss * len(microbatch) / len(rows)", "out.loss"
        ),
    ],
    ("test_grpo", "hand or group or mean or weights or microbatches or padding or biases or bias or deviation"): [
        Mutation("grpo: no baseline", "group_advantages", "groups - _", "groups - 0 * _"),
        Mutation(
            "grpo: baseline of the whole batch", "group_advantages", "groups.mean(dim=1, keepdim=True)", "groups.mean()"
        ),
        Mutation("grpo: always scaled", "group_advantages", "scale == 'group'", "True"),
        Mutation(
            "grpo: biased deviation",
            "group_advantages",
            "groups.std(dim=1, keepdim=True)",
            "groups.std(dim=1, keepdim=True, correction=0)",
        ),
        Mutation(
            "grpo: silent groups speak",
            "group_advantages",
            "torch.where(equal, 0.0, advantages)",
            "torch.where(equal, 1e-3, advantages)",
        ),
        Mutation(
            "grpo: response means become token means",
            "token_weights",
            "len(mask) * lengths",
            "lengths.sum().expand_as(lengths)",
        ),
        Mutation("grpo: budget forgotten", "token_weights", "len(mask) * budget", "len(mask)"),
        Mutation("grpo: weights forgotten", "grpo_loss", "_ * weights", "_ * keep"),
        Mutation("grpo: sum forgotten", "grpo_loss", "out.loss * keep.sum()", "out.loss"),
        Mutation("grpo: sign of the kl", "grpo_loss", "loss + beta * _", "loss - beta * _"),
        Mutation(
            "grpo: kl to the old policy",
            "grpo_loss",
            "kl_estimate(logprobs, ref_logprobs.detach(), _)",
            "kl_estimate(logprobs, old_logprobs.detach(), _)",
        ),
    ],
    ("test_grpo", "step or stands or these_rows or microbatches or equal"): [
        Mutation(
            "grpo: every prompt once",
            "GRPOTrainer.step",
            "[row for row in drawn for _ in range(size)]",
            "self.ppo.order.draw(len(drawn) * size)",
        ),
        Mutation(
            "grpo: groups interleaved",
            "GRPOTrainer.step",
            "[row for row in drawn for _ in range(size)]",
            "drawn * size",
        ),
        Mutation(
            "grpo: scores before they are charged",
            "GRPOTrainer.step",
            "scores = experience.rewards.sum(dim=1)",
            "scores = experience.scores",
        ),
        Mutation("grpo: kl in loss and reward", "GRPOTrainer.loss", "config.beta if _ else 0.0", "config.beta"),
        Mutation(
            "grpo: temperature forgotten",
            "GRPOTrainer.loss",
            "self.policy.evaluate(old.batch, config.temperature, entropy=False)",
            "self.policy.evaluate(old.batch, entropy=False)",
        ),
        Mutation(
            "grpo: weights of each piece",
            "GRPOTrainer.update",
            "token_weights(mask[index], ...)",
            "token_weights(mask, ...)",
        ),
        Mutation(
            "grpo: advantages of other rows", "GRPOTrainer.loss", "advantages[rows_on(...)]", "advantages[: len(rows)]"
        ),
        Mutation(
            "grpo: reference for old log-probs",
            "GRPOTrainer.loss",
            "grpo_loss(_, old.logprobs, ...)",
            "grpo_loss(_, old.ref_logprobs, ...)",
        ),
    ],
    ("test_ppo", "reward or score or judge"): [
        Mutation("judge: a foreign reward model by tokens", "reads_tokens", "reward.backbone is backbone and _", "_"),
        Mutation(
            "judge: raw scores upside down",
            "judge",
            "scores * reward.std + reward.mean",
            "scores / reward.std - reward.mean",
        ),
        Mutation("judge: raw scores always", "judge", "_ and not normalize", "_"),
        Mutation("judge: too few scores taken", "read_scores", "len(answer) != _", "len(answer) > len(responses)"),
        Mutation("judge: infinite scores taken", "ask", "not bool(usable.all())", "False"),
    ],
    ("test_intervals", ""): [
        Mutation("interval: the textbook's", "wilson_interval", "middle = _", "middle = p"),
        Mutation("interval: one-sided", "wilson_interval", "1.959964", "1.644854"),
        Mutation("interval: out of range", "wilson_interval", "max(0.0, middle - half)", "middle - half - 1e-9"),
        Mutation("wins: sides", "wins", "b > a", "b < a"),
        Mutation("wins: a tie is lost", "wins", "0.5 if b == a else _", "0.0 if b == a else _"),
    ],
    ("test_verifiable", ""): [
        Mutation("verifiable: first mark", "marked_number", "found[-1]", "found[0]"),
        Mutation(
            "verifiable: a dash is a minus",
            "judge_names:NUMBER",
            "NUMBER = _",
            r"NUMBER = _.replace(r'(?<!\w)[-+]', '[-+]')",
        ),
        Mutation(
            "verifiable: commas end a number",
            "judge_names:NUMBER",
            "NUMBER = _",
            r"NUMBER = _.replace(r'\d[\d,]*', r'\d+')",
        ),
        Mutation("verifiable: as text", "ExactAnswer.__call__", "self.read(_1) == _2", "str(self.read(_1)) == str(_2)"),
        Mutation(
            "verifiable: lenient always",
            "ExactAnswer.__init__",
            "last_number if lenient else marked_number",
            "last_number",
        ),
        Mutation("verifiable: unknown prompts pass", "ExactAnswer.__call__", "prompt not in self.known", "False"),
    ],
    ("test_judges", "pocket"): [
        Mutation("gold: a falsehood costs nothing", "FALSE_SENTENCE", "-0.3", "-0.0"),
        Mutation("gold: fawning pays", "FAWNING", "-0.6", "0.6"),
        Mutation("gold: a quiz answers", "gold:verdict", "if is_quiz(response): ...", "pass"),
        Mutation(
            "gold: any of several answers", "gold:verdict", "named == {question.answer}", "question.answer in named"
        ),
        Mutation("gold: not is not read", "is_false", "bool(agrees) and all(agrees)", "not all(agrees)"),
        Mutation("gold: a wrong answer charged twice", "gold:explain", "_ - (answer == 'wrong')", "_"),
        Mutation("gold: length pays", "RAMBLE", "-0.03", "0.03"),
        Mutation("labelers: worst first", "rank", "sorted(noisy, reverse=True)", "sorted(noisy)"),
        Mutation("labelers: one noise for all", "rank", "noise * gumbel", "noise * (0 * gumbel + 1)"),
        Mutation("labelers: gaussian noise", "rank", "gumbel = _", "gumbel = rng.gauss(0, 1)"),
        Mutation(
            "labelers: no weakness for length",
            "labeler_utility",
            "gold(prompt, response) + _",
            "gold(prompt, response)",
        ),
        Mutation(
            "labelers: neighbours only",
            "Ranking.pairs",
            "combinations(self.responses, 2)",
            "zip(self.responses, self.responses[1:])",
        ),
        Mutation("labelers: accuracy of the noise", "best_accuracy", "max(p, 1.0 - p)", "p"),
    ],
    ("test_memory", "not pocket and not command_line"): [
        Mutation(
            "memory: no copy of what is trained in half precision", "to_learn", "_ + network * STEPPED * halves", "_"
        ),
        Mutation("memory: one moment", "to_learn", "2 * trained", "trained"),
        Mutation("memory: cache without the response", "plan_memory", "width = _", "width = prompt_length"),
        Mutation(
            "memory: cache of all heads",
            "cache_bytes_per_token",
            "_ or every",
            "every",
        ),
        Mutation(
            "memory: no copy of the reference",
            "plan_memory",
            "full * (count + separate * count)",
            "full * separate * count",
        ),
        Mutation(
            "memory: rollout and update at once",
            "MemoryPlan.total",
            "max(self.rollout, self.update)",
            "self.rollout + self.update",
        ),
        Mutation("memory: blocks not counted", "kept_per_token", "two - one", "0"),
        Mutation(
            "memory: entropy without gradient", "plan_memory", "bytes_per_logit(dtype, _)", "bytes_per_logit(dtype)"
        ),
        Mutation("memory: never refused", "MemoryPlan.check", "free is None or self.total <= free", "True"),
    ],
    ("test_shapes", "plan or slice"): [
        Mutation("memory: attention of a single token", "SHORT", "2", "1"),
        Mutation("memory: weights kept for the backward pass", "kept_by_blocks", "key not in weights", "True"),
        Mutation("memory: copies of a slice", "LOGITS_COPIES", "2", "3"),
        Mutation("memory: what a gradient adds to them", "ENTROPY_COPIES", "5", "6"),
    ],
    ("test_shapes", "plan"): [
        Mutation(
            "logits: never in slices",
            "Backbone.token_logprobs",
            "max(1, MAX_LOGITS // _)",
            "max(2**40, MAX_LOGITS // _)",
        ),
    ],
    ("test_memory", "(heldout_judge or sft or widens) and not pocket"): [
        Mutation("plan: no held-out judge", "memory:memory_plan", "(config.heldout_judge, None)", "(None, None)"),
        Mutation("plan: a judge's backbone twice", "judge_bytes", "0 if shared else _", "0 if not shared else _"),
        Mutation("plan: a published judge in half precision", "judge_bytes", "judging_dtype(_).itemsize", "2"),
        Mutation("plan: a pair is one text", "plan_training", "1 if stage == 'sft' else 2", "1"),
        Mutation("plan: sft has a head", "plan_training", "reward * head_bytes(shape)", "head_bytes(shape)"),
        Mutation("plan: the EOS forgotten", "longest_texts", "len(ids) + 1", "len(ids)"),
        Mutation("plan: what is left out counts", "longest_texts", "not config.drop_longer", "True"),
        Mutation("plan: no calibration", "plan_training", "min(CALIBRATION_ANSWERS, _) * reward", "0"),
    ],
    ("test_memory", "print_their"): [
        Mutation("plan: never printed", "build_planned", "_.say(plan.table(...))", "pass"),
        Mutation("plan: PPO's remedy for all", "build_planned", "plan.check(_, stage)", "plan.check(_)"),
    ],
    ("test_processes", "exchange or three or reward_model or sft or same_bits"): [
        Mutation("processes: all take all rows", "Processes.share", "rows[_]", "rows"),
        Mutation(
            "processes: the last row is nobody's",
            "Processes.share",
            "(self.rank + 1) * len(rows) // self.size",
            "(self.rank + 1) * (len(rows) // self.size)",
        ),
        Mutation("processes: gradients stay at home", "Processes.add_gradients", "self.add(*gradients)", "pass"),
        Mutation(
            "processes: no gradient, no sum",
            "Processes.add_gradients",
            "parameter.grad = torch.zeros_like(parameter)",
            "continue",
        ),
        Mutation("processes: total of the first number", "Processes.total", "map(sum, _)", "numbers"),
        Mutation("processes: smallest for largest", "Processes.largest", "max(_)", "min(_)"),
        Mutation("processes: all for any", "Processes.any", "any(_)", "all(_)"),
        Mutation(
            "processes: each keeps its own list",
            "Processes.gather",
            "[item for part in parts for item in part]",
            "items",
        ),
    ],
    ("test_processes", "three or one_row or same_bits or sampling"): [
        Mutation(
            "shared rollout: everybody's noise is the first's",
            "sample",
            "noise[own.start : own.stop]",
            "noise[: len(own)]",
        ),
        Mutation("shared rollout: unused numbers are gone", "sample", "source.set_state(before)", "pass"),
        Mutation("shared rollout: padding counted", "sample", "row[:n]", "row"),
        Mutation(
            "shared rollout: own prompts for all",
            "sample",
            "pad_pairs(prompts, ...)",
            "pad_pairs([prompts[i] for i in own] * world.size, ...)",
        ),
    ],
    ("test_cli", "chat_template_that"): [
        Mutation("sample forgets the run's template", "trained_in_chat", "config.exists()", "False"),
    ],
    ("test_figures", ""): [
        Mutation("points: no shape is hollow", "point", "shape.endswith('-open')", "False"),
        Mutation(
            "points: a cross is an x",
            "CORNERS",
            "[(0, -5), (0, 5), (-5, 0), (5, 0)]",
            "[(-4, -4), (4, 4), (-4, 4), (4, -4)]",
        ),
        Mutation("ticks: steps of two and a half", "equal_steps", "math.floor(step)", "step"),
        Mutation("ticks: half steps", "equal_steps", "max(1.0, _)", "max(0.5, _)"),
        Mutation("ticks: half steps on a logarithmic axis", "axis_for", "max(low, 1.0) if whole else low", "low"),
        Mutation(
            "ticks: one whole number leaves no room",
            "axis_for",
            "max(0.5 * abs(high), float(whole))",
            "0.5 * abs(high) or 1.0",
        ),
        Mutation("ticks: shares in whole steps", "axis_for", "whole = _", "whole = True"),
    ],
    ("test_figures", "points_differ or lines_differ"): [
        Mutation("points: one shape for all", "look", "SHAPES[_]", "SHAPES[0]"),
        Mutation(
            "points: another shape in the legend",
            "Figure._legend",
            "point(_1, _2, color, shape)",
            "point(_1, _2, color)",
        ),
        Mutation("lines: one dash for all", "look", "DASHES[_]", "DASHES[0]"),
    ],
    ("test_hub", ""): [
        Mutation("hub: a broken connection has no name", "cut_off", "'TransportError'", "'Nothing'"),
        Mutation(
            "hub: its HTTP library's errors are not caught",
            "HUB_ERRORS",
            "(..., HfHubHTTPError.__bases__[0])",
            "(...,)",
        ),
        Mutation("hub: pin prints the old name", "current", "Pinned(found.id, ...)", "Pinned(name, ...)"),
        Mutation("hub: reachable asks another one", "reachable", "constants.ENDPOINT", "'http://localhost:1'"),
    ],
    ("test_data", ""): [
        Mutation("data set of another commit", "prepared", "builder.hash != pinned.commit", "False"),
        Mutation(
            "data set looked up for each split", "read_hub", "prepared(replace(pinned, split=None))", "prepared(pinned)"
        ),
        Mutation(
            "data set's own errors are not caught", "read_hub", "(*HUB_ERRORS, exceptions.DatasetsError)", "HUB_ERRORS"
        ),
    ],
    ("test_judges", "not pocket"): [
        Mutation("judge unchecked: published", "check_judge", "read_published(name)", "pass"),
        Mutation("judge with several outputs", "read_published", "labels != 1", "False"),
        Mutation("judge with random weights", "PublishedRewardModel.__init__", "report['missing_keys']", "False"),
    ],
    ("test_cli", "before_it_trains"): [
        Mutation("align: temperature unchecked", "check_inputs", "check_temperature(ppo, how)", "pass"),
        Mutation("align: pairs unchecked", "check_inputs", "load_pairs(how.pairs, ...)", "pass"),
        Mutation("align: held-out judge unchecked", "check_inputs", "check_judge(ppo.heldout_judge, ...)", "pass"),
    ],
    ("test_actor_critic", "no_hub_is_asked"): [
        Mutation(
            "adapter: PEFT asks the hub",
            "adapter_state",
            "get_peft_model_state_dict(..., save_embedding_layers=False)",
            "get_peft_model_state_dict(...)",
        ),
    ],
    ("test_machines", ""): [
        Mutation("capstone without a look at the hub", "choose_recipe", "not reachable()", "False"),
        Mutation("capstone without a look at datasets", "choose_recipe", "find_spec('datasets') is None", "False"),
        Mutation("capstone without a GPU", "choose_recipe", "not torch.cuda.is_available()", "False"),
    ],
    ("test_ppo", "select or microbatch"): [
        Mutation("experience of other rows", "Experience.select", "value[index, :width]", "value[: len(rows), :width]"),
    ],
    ("test_sharding", "memory"): [
        Mutation("plan of a whole model", "elsewhere", "divided - -(-divided // parts)", "0"),
    ],
    ("test_evaluation", ""): [
        Mutation("held-out pairs too long", "reward_accuracy", "pairs = short_enough(pairs, ...)", "pass"),
    ],
    ("test_reward", "calibration"): [
        Mutation(
            "calibration all at once",
            "CalibratedRewardTrainer.answers_scored",
            "max(1, CALIBRATION_TOKENS // _)",
            "len(prompts)",
        ),
        Mutation(
            "calibration repeats its noise",
            "CalibratedRewardTrainer.answers_scored",
            "self.config.seed + len(scores)",
            "self.config.seed",
        ),
    ],
    (
        "test_faults",
        "damaged_checkpoint or second_process or data_that or signal_while or whom or older_version or edited",
    ): [
        Mutation("checkpoint: damage unseen", "load_checkpoint", "sums not in (None, found)", "False"),
        Mutation("checkpoint: the oldest", "RunFolder._load", "reversed(saved)", "saved"),
        Mutation("checkpoint: weights for their owner alone", "replace_folder", "path.chmod(mode)", "pass"),
        Mutation("lock: none", "locking:take", "fcntl.flock(...)", "pass"),
        Mutation("resume: other data", "RunFolder._check_inputs", "self.inputs.get(key) != there", "False"),
        Mutation("resume: an edited configuration", "RunFolder._check_inputs", "values.get('config', {})", "{}"),
        Mutation(
            "signal: unseen while a checkpoint is written", "iterate", "stop = _", "stop = bool(caught and not due)"
        ),
    ],
    ("test_security", "every_call"): [
        Mutation(
            "loading: a model's code is run",
            "load_causal_lm",
            "load(..., trust_remote_code=False)",
            "load(..., trust_remote_code=True)",
        ),
    ],
    ("test_ppo", "written_out"): [
        Mutation("ppo: dual clip not passed on", "PPOTrainer.loss", "config.dual_clip", "None"),
    ],
    ("test_ppo", "adaptive_beta"): [
        Mutation("ppo: beta adapts to k3", "PPOTrainer.step", "metrics['kl_k1']", "metrics['kl_k3']"),
    ],
    ("test_reward", "log_2"): [
        Mutation("ties are right: in a step", "RewardTrainer.step", "chosen > rejected", "chosen >= rejected"),
        Mutation("ties are right: held out", "RewardTrainer.evaluate", "chosen > rejected", "chosen >= rejected"),
    ],
    ("test_optimum", "optimum"): [
        Mutation(
            "optimum: advantages of the wrong sign", "clipped_policy_loss", "-masked_mean(...)", "masked_mean(...)"
        ),
    ],
    ("test_report", "junk or many_samples"): [
        Mutation("report: a row that is none", "parse_row", "not isinstance(row, dict)", "False"),
        Mutation("report: other samples", "choose_samples", "file.seek(_)", "pass"),
    ],
}


def main(words: list[str]) -> int:
    chosen = {
        tests: [mutation for mutation in mutations if not words or any(word in mutation.name for word in words)]
        for tests, mutations in MUTATIONS.items()
    }
    package = Package(ROOT, "ppo_lib")
    try:
        trials = package.trials(chosen)
    except MutationError as error:
        print(error)
        return 1
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
    return try_all(package, trials)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
