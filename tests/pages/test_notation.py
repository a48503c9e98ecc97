"""Every numbered line of book/notation.md holds in the code: test_n17 proves line N17."""

import inspect
import re
from itertools import combinations
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ppo_lib.formulas import advantages, kl, losses, masking, rewards
from ppo_lib.formulas.kl import kl_estimate, kl_exact
from ppo_lib.models import actor_critic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import pad_pairs
from ppo_lib.sampling import rollout
from ppo_lib.trainers.configuration import PPOConfig

PAGE = Path(__file__).parents[2] / "book" / "notation.md"
NAN, INF = float("nan"), float("inf")
LOGPROBS = tensor([[-0.9, -2.5, -0.5]], dtype=torch.float64)
REF_LOGPROBS = tensor([[-1.5, -1.0, -0.5]], dtype=torch.float64)
ONES = torch.ones(1, 3, dtype=torch.float64)


def parameters(function) -> set[str]:
    return set(inspect.signature(function).parameters)


def clipped(advantage: float, ratio: float):
    """Loss and gradient with respect to the log-prob, of one token."""
    logprob = tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    loss = losses.clipped_policy_loss(
        logprob, torch.zeros(1, 1).double(), tensor([[advantage]]).double(), torch.ones(1, 1).double(), epsilon=0.2
    ).loss
    loss.backward()
    return loss.item(), logprob.grad.item()


def test_every_line_of_the_page_has_its_test_and_every_test_its_line():
    lines = re.findall(r"^(?:\| |\*\*)(N\d+)\b", PAGE.read_text(), flags=re.MULTILINE)
    assert lines == [f"N{i}" for i in range(1, len(lines) + 1)]
    proved = {f"N{name.removeprefix('test_n')}" for name in globals() if re.fullmatch(r"test_n\d+", name)}
    assert proved == set(lines)


def test_n1():
    assert {"prompts", "responses"} <= parameters(RewardModel.scores)


def test_n2():
    """The state grows by the action: state t + 1 is state t and the token at t."""
    batch = pad_pairs([[7, 8]], [[1, 2, 3]], pad_token_id=0)
    state = [batch.sequences[0, : batch.prompt_width + t].tolist() for t in range(4)]
    assert state[0] == [7, 8]
    assert all(state[t + 1] == [*state[t], batch.responses[0, t].item()] for t in range(3))


def test_n3():
    assert "logprobs" in actor_critic.PerToken._fields
    assert "logprobs" in parameters(losses.policy_gradient_loss)


def test_n4():
    """The old policy enters as log-probs, and no gradient reaches them."""
    old = LOGPROBS.clone().requires_grad_()
    new = LOGPROBS.clone().requires_grad_()
    losses.clipped_policy_loss(new, old_logprobs=old, advantages=ONES, mask=ONES).loss.backward()
    assert new.grad is not None
    assert old.grad is None


def test_n5():
    assert "ref_logprobs" in parameters(kl.kl_estimate)
    assert hasattr(actor_critic.ActorCritic, "reference_logprobs")


def test_n6():
    with pytest.raises(ValueError, match="scores has shape"):
        rewards.augmented_rewards(torch.zeros(1, 3), ONES, ONES, beta=0.1)
    assert rewards.augmented_rewards(torch.zeros(1), ONES, ONES, beta=0.1).shape == (1, 3)


def test_n7():
    assert {"rewards"} <= parameters(advantages.td_errors)
    assert rewards.augmented_rewards(torch.ones(1), ONES, ONES, beta=0.0).tolist() == [[0, 0, 1]]


def test_n8():
    policy = losses.clipped_policy_loss(LOGPROBS, REF_LOGPROBS, ONES, ONES)
    torch.testing.assert_close(policy.ratio, LOGPROBS.exp() / REF_LOGPROBS.exp())


def test_n9():
    """A forecast before the token: with perfect forecasts of a reward on the last token, no step surprises."""
    assert advantages.td_errors(tensor([[0.0, 0.0, 5.0]]), tensor([[5.0, 5.0, 5.0]]), ONES, 1.0).tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="values"):
        advantages.gae(ONES, torch.zeros(1), ONES, 1.0, 1.0)


def test_n10():
    values = tensor([[3.0, 3.5, 4.0]]).double()
    result = advantages.gae(ONES, values, ONES, 0.9, 0.8)
    assert result._fields == ("advantages", "returns")
    torch.testing.assert_close(result.returns, result.advantages + values)


def test_n11():
    assert {"beta"} <= parameters(rewards.augmented_rewards)
    assert {"gamma", "lam"} <= parameters(advantages.gae)
    assert {"epsilon"} <= parameters(losses.clipped_policy_loss)
    assert {"beta", "gamma", "lam", "epsilon"} <= set(PPOConfig.__dataclass_fields__)


def test_n12():
    assert {"value_coef", "entropy_coef"} <= parameters(losses.ppo_loss) & set(PPOConfig.__dataclass_fields__)


def test_n13():
    batch = pad_pairs([[7, 8], [9]], [[1, 2, 3], [4]], pad_token_id=0)
    assert (len(batch), batch.prompt_width, batch.responses.shape) == (2, 2, (2, 3))
    assert batch.mask.shape == (2, 3)
    assert losses.entropy(torch.zeros(2, 3, 11)).shape == (2, 3)


def test_n14():
    """The EOS (here 5) is the last token that counts, and lengths say so even where the pad id is the EOS id."""
    batch = pad_pairs([[7], [7]], [[1, 2, 5], [5]], pad_token_id=5)
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_n15():
    batch = pad_pairs([[7, 8], [9]], [[1], [4, 5]], pad_token_id=0)
    assert batch.sequences.tolist() == [[7, 8, 1, 0], [0, 9, 4, 5]]
    assert batch.position_ids[1, 1:].tolist() == [0, 1, 2]
    assert batch.position_ids[0, :3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("junk", [0.0, NAN, INF, -INF])
def test_n16(junk):
    mask = tensor([[1.0, 1.0, 0.0]])
    x = tensor([[1.0, 3.0, junk]], requires_grad=True)
    mean = masking.masked_mean(x, mask)
    mean.backward()
    assert mean.item() == 2.0
    assert x.grad.tolist() == [[0.5, 0.5, 0.0]]
    loss = losses.clipped_policy_loss(x, torch.zeros(1, 3), tensor([[1.0, -1.0, junk]]), mask).loss
    assert torch.isfinite(loss)


def test_n17():
    """A label is scored by the logits one position before it, and by no others."""
    logits = torch.zeros(1, 4, 6, dtype=torch.float64, requires_grad=True)
    losses.sft_loss(logits, tensor([[-100, -100, 2, -100]])).backward()
    touched = logits.grad.abs().sum(-1).nonzero()[:, 1].tolist()
    assert touched == [1]


def test_n18():
    mask = tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    out = rewards.augmented_rewards(tensor([5.0, 7.0]), torch.zeros(2, 3), mask, beta=0.1)
    assert out.tolist() == [[0, 5, 0], [0, 0, 7]]


def test_n19():
    """What stands behind the last counted token, finished or cut off, is worth 0; the penalty is an option."""
    delta = advantages.td_errors(tensor([[0.0, 0.0, 1.0]]), tensor([[0.0, 0.0, 4.0]]), ONES, 1.0)
    assert delta[0, 2].item() == 1.0 - 4.0
    assert {"finished"} <= set(rollout.Sampled.__dataclass_fields__)
    assert PPOConfig.__dataclass_fields__["missing_eos_penalty"].default == 0.0


def test_n20():
    """One small step down the loss makes a token of positive advantage likelier: the loss is minus the objective."""
    for loss in (losses.policy_gradient_loss, lambda lp, a, m: losses.clipped_policy_loss(lp, LOGPROBS, a, m).loss):
        logprobs = LOGPROBS.clone().requires_grad_()
        loss(logprobs, ONES, ONES).backward()
        assert (-logprobs.grad > 0).all()


def test_n21():
    total = losses.ppo_loss(tensor(1.0), tensor(10.0), tensor(100.0), value_coef=0.5, entropy_coef=0.01)
    assert total.item() == 1.0 + 0.5 * 10 - 0.01 * 100


def test_n22():
    ratio, advantage = tensor([[0.5, 1.0, 1.5]]).double(), tensor([[1.0, -2.0, 3.0]]).double()
    loss = losses.clipped_policy_loss(ratio.log(), torch.zeros(1, 3).double(), advantage, ONES, epsilon=0.2).loss
    wanted = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    torch.testing.assert_close(loss, wanted)


def test_n23():
    assert losses.value_loss(tensor([[1.0, 2.0]]), tensor([[3.0, 2.0]]), torch.ones(1, 2)).item() == 2.0


def test_n24():
    torch.testing.assert_close(losses.entropy(torch.zeros(1, 1, 8)), tensor([[8.0]]).log())
    assert losses.entropy(tensor([[[0.0, -INF, -INF]]])).item() == 0.0
    assert (losses.entropy(torch.randn(4, 5, 9)) >= 0).all()


def test_n25():
    """KL(p || q) by enumeration, with p the policy: the other direction has another value."""
    p, q = tensor([0.7, 0.2, 0.1]).double(), tensor([0.2, 0.3, 0.5]).double()
    forward = (p * (p / q).log()).sum()
    torch.testing.assert_close(kl_exact(p.log().view(1, 1, 3), q.log().view(1, 1, 3)).squeeze(), forward)
    assert not torch.isclose(forward, (q * (q / p).log()).sum())
    # The mean of k1 over tokens drawn from the policy is that same number.
    torch.testing.assert_close((p * kl_estimate(p.log().view(1, 3), q.log().view(1, 3), "k1")[0]).sum(), forward)


def test_n26():
    d = LOGPROBS - REF_LOGPROBS
    for kind, wanted in {"k1": d, "k2": d.square() / 2, "k3": (-d).exp() - 1 + d}.items():
        torch.testing.assert_close(kl_estimate(LOGPROBS, REF_LOGPROBS, kind), wanted)


def test_n27():
    per_token = tensor([[0.6, -1.5, 0.2]]).double().requires_grad_()
    out = rewards.augmented_rewards(tensor([5.0]), per_token, ONES, beta=0.1)
    torch.testing.assert_close(out, tensor([[-0.06, 0.15, -0.02 + 5.0]]).double())
    assert not out.requires_grad


def test_n28():
    """The recursions, written out; past the last counted token (here the third) value and advantage are 0."""
    r, v = torch.randn(1, 4).double(), torch.randn(1, 4).double()
    mask = tensor([[1.0, 1.0, 1.0, 0.0]]).double()
    delta = [r[0, t] + 0.9 * (v[0, t + 1] if t < 2 else 0.0) - v[0, t] for t in range(3)]
    torch.testing.assert_close(advantages.td_errors(r, v, mask, 0.9)[0, :3], torch.stack(delta))
    wanted, following = [], 0.0
    for t in (2, 1, 0):
        following = delta[t] + 0.9 * 0.8 * following
        wanted.insert(0, following)
    got = advantages.gae(r, v, mask, 0.9, 0.8).advantages[0]
    torch.testing.assert_close(got[:3], torch.stack(wanted))
    assert got[3] == 0


def test_n29():
    chosen, rejected = tensor([2.0, -1000.0]), tensor([0.5, 0.0])
    assert torch.isfinite(losses.bradley_terry_loss(chosen, rejected))
    torch.testing.assert_close(losses.bradley_terry_loss(chosen[:1], rejected[:1]), -torch.sigmoid(tensor(1.5)).log())


def test_n30():
    """One response of three tokens and one of one: each token weighs the same, not each response."""
    x, mask = tensor([[1.0, 1.0, 1.0], [5.0, 0.0, 0.0]]), tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert masking.masked_mean(x, mask).item() == (1 + 1 + 1 + 5) / 4


def test_n31():
    x = torch.randn(3, 5).double()
    white = masking.whiten(x, torch.ones(3, 5).double())
    torch.testing.assert_close(white, (x - x.mean()) * torch.rsqrt(x.var(unbiased=True) + 1e-8))


def test_n32():
    """At temperature 2 the policy's log-probs are those of the tempered softmax, so that the ratio starts at 1."""
    assert {"temperature"} <= parameters(actor_critic.ActorCritic.evaluate) & parameters(rollout.sample)
    assert {"temperature"} <= parameters(actor_critic.ActorCritic.reference_logprobs)
    actor = actor_critic.ActorCritic(tiny_backbone())
    batch = pad_pairs([[3, 4]], [[5, 6, 7]], pad_token_id=0)
    tempered = torch.log_softmax(actor(batch, temperature=1.0).logits / 2.0, dim=-1)
    wanted = tempered.gather(2, batch.responses.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(actor.evaluate(batch, temperature=2.0).logprobs, wanted)


def test_n33():
    per_token = kl_estimate(LOGPROBS, REF_LOGPROBS, "k1")
    torch.testing.assert_close(per_token, tensor([[0.6, -1.5, 0.0]]).double())
    out = rewards.augmented_rewards(tensor([5.0]), per_token, ONES, beta=0.1)
    torch.testing.assert_close(out, tensor([[-0.06, 0.15, 5.0]]).double())


def test_n34():
    r, v = tensor([[-0.06, 0.15, 5.0]]).double(), tensor([[3.0, 3.5, 4.0]]).double()
    torch.testing.assert_close(advantages.td_errors(r, v, ONES, 0.9), tensor([[0.09, 0.25, 1.0]]).double())
    torch.testing.assert_close(advantages.gae(r, v, ONES, 0.9, 0.8).advantages, tensor([[0.7884, 0.97, 1.0]]).double())


def test_n35():
    """The table on the page, read from the page: loss, and whether autograd finds a gradient."""
    rows = re.findall(r"^\| [A-F] \|(.*)\|$", PAGE.read_text().replace("−", "-"), flags=re.MULTILINE)
    assert len(rows) == 6
    for row in rows:
        advantage, ratio, plain, cut, minimum, loss, flows = (cell.strip() for cell in row.split("|"))
        got, gradient = clipped(float(advantage), float(ratio))
        assert got == pytest.approx(float(loss))
        assert float(plain) == pytest.approx(float(ratio) * float(advantage))
        assert float(cut) == pytest.approx(min(max(float(ratio), 0.8), 1.2) * float(advantage))
        assert float(minimum) == pytest.approx(min(float(plain), float(cut)))
        assert (gradient != 0) == (flows == "flows")


def test_n36():
    """combinations keeps the order of the ranking, so the first of each pair is the preferred one."""
    pairs = ["".join(pair) for pair in combinations("BADC", 2)]
    text = re.search(r"\*\*N36.*?: (BA.*?)\.\s*\n", PAGE.read_text().replace("\n", " \n"), flags=re.DOTALL).group(1)
    assert re.split(r",\s+", text) == pairs


def test_n37():
    assert pytest.approx(0.15) == 1 - (0.7 + 0.1 + 0.05)


def tiny_backbone() -> Backbone:
    """Eleven tokens, two layers, random weights."""
    torch.manual_seed(0)
    words = WordLevel({"<eos>": 0, **{f"w{i}": i for i in range(1, 11)}}, unk_token="<eos>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="<eos>", pad_token="<eos>")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=11, max_position_embeddings=32, eos_token_id=0, bos_token_id=0, **sizes)
    return Backbone(LlamaForCausalLM(config), tokenizer, "tiny")
