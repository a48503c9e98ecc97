"""What the errata page corrects and no other test shows: the failure and the fix, small enough to enumerate."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch
from tiny import EOS, randomise
from torch import Tensor

from ppo_lib.formulas.advantages import gae
from ppo_lib.formulas.kl import kl_estimate, kl_exact
from ppo_lib.formulas.losses import bradley_terry_loss, clipped_policy_loss, entropy, ppo_loss
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch, pad_pairs

ROOT = Path(__file__).parents[2]


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def climb(logits: Tensor, gain, steps: int, rate: float) -> Tensor:
    """Gradient ascent on ``gain(log-probs)`` over the logits of one distribution."""
    for _ in range(steps):
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(gain(torch.log_softmax(leaf, 0)), leaf)
        logits = logits + rate * gradient
    return logits


def test_1_the_wrong_sign_of_the_bonus_kills_entropy():
    """Minimizing + c2 S makes the policy decide for nothing in return; the right sign opens it."""
    ends = {}
    for sign in (1, -1):
        logits = vector(1.0, 0.5, 0.0)
        for _ in range(300):
            leaf = logits.clone().requires_grad_()
            zero = torch.zeros((), dtype=torch.float64)
            bonus = ppo_loss(zero, zero, entropy(leaf.view(1, 1, -1)).mean(), value_coef=0.0, entropy_coef=1.0)
            (gradient,) = torch.autograd.grad(sign * bonus, leaf)
            logits = logits - 0.5 * gradient
        ends[sign] = float(entropy(logits.view(1, 1, -1)))
    assert ends[1] == pytest.approx(float(vector(3.0).log()), abs=1e-6)
    assert ends[-1] < 0.05


def test_2_with_a_value_at_the_last_token_only_gae_sees_no_change_of_prospects():
    """The prospects fall at the third token alone. Values at every token find it; one at the end, here 0, does not."""
    rewards, mask = vector(0, 0, 0, 0).view(1, -1), torch.ones(1, 4, dtype=torch.float64)
    everywhere = gae(rewards, vector(1, 1, 1, 0).view(1, -1), mask, 1.0, 0.0).advantages[0]
    assert everywhere.tolist() == [0, 0, -1, 0]
    at_the_end = gae(rewards, vector(0, 0, 0, 0).view(1, -1), mask, 1.0, 0.0).advantages[0]
    assert at_the_end.tolist() == [0, 0, 0, 0]


def test_3_the_last_column_changes_its_score_with_padding_and_the_last_token_does_not(build_tiny):
    model = RewardModel(build_tiny())
    randomise(model.parameters_to_train(), seed=1, scale=0.2)
    batch = pad_pairs([[5, 6, 7]], [[12, 30, EOS]], 1)
    padded = TokenBatch(
        torch.cat([batch.sequences, torch.full((1, 4), 1)], dim=1),
        batch.prompt_lengths,
        batch.response_lengths,
        batch.prompt_width,
    )
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model(padded), atol=1e-5, rtol=1e-5)
        last = [model.head(model.backbone.hidden_states(b, "reward")[:, -1]).item() for b in (batch, padded)]
    assert abs(last[0] - last[1]) > 1e-2


def test_4_the_logarithm_of_a_sigmoid_is_infinite_where_logsigmoid_is_1000():
    chosen = torch.tensor([-1000.0], requires_grad=True)
    assert -torch.log(torch.sigmoid(chosen)) == torch.inf
    loss = bradley_terry_loss(chosen, torch.zeros(1))
    loss.backward()
    assert (loss.item(), chosen.grad.item()) == (1000.0, -1.0)


def test_6_single_draws_of_k1_are_often_negative_and_average_to_a_kl_that_is_not():
    generator = torch.Generator().manual_seed(0)
    logits, ref_logits = (torch.randn(50, dtype=torch.float64, generator=generator) * 0.5 for _ in range(2))
    logp, logq = torch.log_softmax(logits, 0), torch.log_softmax(ref_logits, 0)
    drawn = torch.multinomial(logp.exp(), 40_000, replacement=True, generator=generator)
    k1 = kl_estimate(logp[drawn].view(1, -1), logq[drawn].view(1, -1), "k1")
    exact = float(kl_exact(logits.view(1, 1, -1), ref_logits.view(1, 1, -1)))
    assert exact > 0
    assert (k1 < 0).double().mean() > 0.2
    standard_error = float(k1.std() / len(drawn) ** 0.5)
    assert abs(float(k1.mean()) - exact) < 4 * standard_error < exact / 5


def test_7_an_anchor_renewed_every_iteration_holds_nothing():
    """With the SFT policy as anchor the climb ends at ref · exp(r / beta); with a renewed one it never ends."""
    ref, score, beta = vector(0.6, 0.3, 0.1).log(), vector(0.0, 0.5, 1.0), 1.0
    optimum = torch.softmax(ref + score / beta, 0)
    fixed = renewed = ref
    for _ in range(60):
        fixed = climb(fixed, lambda p: p.exp() @ (score - beta * (p - ref)), steps=20, rate=0.5)
        anchor = torch.log_softmax(renewed, 0)
        renewed = climb(renewed, lambda p, a=anchor: p.exp() @ (score - beta * (p - a)), steps=20, rate=0.5)
    torch.testing.assert_close(torch.softmax(fixed, 0), optimum, atol=1e-6, rtol=0)
    assert torch.softmax(renewed, 0)[2] > 0.99 > 0.25 > optimum[2]


def test_8_the_sampled_tokens_alone_give_a_bonus_that_can_push_the_wrong_way():
    p = torch.cat([vector(0.1), torch.full((19,), 0.9 / 19, dtype=torch.float64)])
    leaf = p.log().requires_grad_()
    logp = torch.log_softmax(leaf, 0)
    true = entropy(leaf.view(1, 1, -1)).sum()
    shortcut = (p * -(logp.exp() * logp)).sum()  # its mean over sampled tokens
    assert shortcut < 0.1 * true
    pushes = [torch.autograd.grad(x, leaf, retain_graph=True)[0][0] for x in (true, shortcut)]
    assert pushes[0] < 0 < pushes[1]  # on the likeliest token


# Two tokens of two kinds: the first is drawn from theta[0], the second from theta[1 + first].
RESPONSES = list(product((0, 1), repeat=2))
GRADES = vector(0.0, 1.0, 0.5, -1.0)  # of the responses 00, 01, 10, 11


def token_logprobs(theta: Tensor) -> Tensor:
    rows = torch.log_softmax(theta, dim=1)
    return torch.stack([torch.stack([rows[0, a], rows[1 + a, b]]) for a, b in RESPONSES])  # (4, 2)


def test_11_the_identity_holds_for_the_whole_answer_and_the_ratio_per_token_is_first_order():
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    direction = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    before = token_logprobs(old)
    p_old = before.sum(1).exp()
    second = torch.softmax(old[1:], dim=1) @ torch.eye(2, dtype=torch.float64)  # chances of the second token
    after_first = (second * GRADES.view(2, 2)).sum(1)  # value once the first token stands
    value = float(p_old @ GRADES)
    tokens = torch.tensor(RESPONSES)
    advantages = torch.stack([after_first[tokens[:, 0]] - value, GRADES - after_first[tokens[:, 0]]], dim=1)

    gains, errors = [], []
    for distance in (1.0, 0.1, 0.01):
        now = token_logprobs(old + distance * direction)
        truth = float(now.sum(1).exp() @ GRADES) - value
        whole = float(p_old @ ((now - before).sum(1).exp() * GRADES)) - value
        per_token = float(p_old @ ((now - before).exp() * advantages).sum(1))
        assert whole == pytest.approx(truth, abs=1e-12)
        gains.append(abs(truth))
        errors.append(abs(per_token - truth))
    assert errors[0] > 0.1 * gains[0]  # far away the shortcut is plainly off
    assert gains[1] / gains[2] == pytest.approx(10, rel=0.2)  # ten times nearer: a tenth of the gain,
    assert errors[1] / errors[2] == pytest.approx(100, rel=0.2)  # and a hundredth of the error


def test_12_a_few_clipped_epochs_on_one_batch_stay_near_the_policy_that_sampled_it():
    """The effective share of the batch says how far "off-policy" the reuse is; without clip and end it melts away."""
    generator = torch.Generator().manual_seed(0)
    start = torch.zeros(8, dtype=torch.float64)
    drawn = torch.randint(8, (256,), generator=generator)
    advantages = torch.randn(8, dtype=torch.float64, generator=generator)[drawn].view(1, -1)
    old, mask = torch.log_softmax(start, 0)[drawn].view(1, -1), torch.ones(1, 256, dtype=torch.float64)

    def share(epochs: int, epsilon: float) -> float:
        def gain(p: Tensor) -> Tensor:
            return -clipped_policy_loss(p[drawn].view(1, -1), old, advantages, mask, epsilon=epsilon).loss

        logits = climb(start, gain, epochs, rate=0.5)
        weights = (torch.log_softmax(logits, 0)[drawn] - old[0]).exp()
        return float(weights.sum().square() / weights.square().sum() / len(drawn))

    assert share(4, 0.2) > 0.95
    assert share(400, float("inf")) < 0.5


def test_14_the_band_slows_reward_hacking_and_prevents_it_at_no_strength():
    """At the optimum of every beta the overrated answer is likelier than in the reference; gold has a peak between."""
    ref = vector(0.30, 0.65, 0.05)
    proxy, gold = vector(-1.0, 1.0, 2.0), vector(-1.0, 1.0, -1.5)  # the third answer is overrated
    golds = []
    for beta in (100.0, 10.0, 1.0, 0.3, 0.1):
        optimum = torch.softmax(ref.log() + proxy / beta, 0)
        assert optimum[2] > ref[2]
        golds.append(float(optimum @ gold))
    assert max(golds) > float(ref @ gold) > golds[-1]
    assert golds.index(max(golds)) not in (0, len(golds) - 1)


def test_16_an_advantage_for_the_whole_answer_is_one_number_and_gae_has_one_for_each_token():
    """The same answer: r - V(x) credits all its tokens alike, GAE the one at which the forecast changed."""
    rewards, values = vector(0, 0, 0, 1).view(1, -1), vector(0.4, 0.4, 1.0, 1.0).view(1, -1)
    mask = torch.ones_like(rewards)
    whole = rewards.sum() - values[0, 0]
    per_token = gae(rewards, values, mask, 1.0, 0.0).advantages[0]
    torch.testing.assert_close(per_token, vector(0.0, 0.6, 0.0, 0.0))
    torch.testing.assert_close(per_token.sum(), whole)  # the same surprise, divided among the tokens


def test_17_grpo_is_spelled_out_as_its_authors_do_and_no_page_says_which_product_uses_ppo():
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "chapters").glob("*.ipynb"), ROOT / "README.md"]
    text = re.sub(r"\s+", " ", " ".join(page.read_text(encoding="utf-8") for page in pages))
    names = re.findall(r"\bgroup[ -](\w+) policy optimi[sz]ation", text, re.I)
    assert names
    assert {name.lower() for name in names} == {"relative"}
    assert not re.findall(r"\b(?:ChatGPT|Claude|Gemini|Copilot)\b[^.]{0,60}\bPPO\b", text)


def test_19_the_scale_of_raw_scores_changes_what_beta_means_and_normalized_ones_do_not():
    """Two judges that order all answers alike, one in units twice as large: one beta, two optima, unless normalized."""
    ref, score, beta = vector(0.5, 0.3, 0.2), vector(1.0, 3.0, 5.0), 1.0

    def optimum(scores: Tensor) -> Tensor:
        return torch.softmax(ref.log() + scores / beta, 0)

    def normalized(scores: Tensor) -> Tensor:
        mean = ref @ scores
        return (scores - mean) / (ref @ (scores - mean).square()).sqrt()

    assert (optimum(score) - optimum(2 * score + 100)).abs().max() > 0.05
    torch.testing.assert_close(optimum(normalized(score)), optimum(normalized(2 * score + 100)))


def test_20_with_dropout_two_passes_over_the_same_tokens_disagree(build_tiny):
    """The ratio before any update: 1 with dropout off, something else with it on."""
    backbone = build_tiny("gpt2")
    batch = pad_pairs([[5, 6, 7]], [[12, 30, EOS]], 1)

    def logprobs() -> Tensor:
        with torch.no_grad():
            states = backbone.hidden_states(batch)[:, batch.prompt_width - 1 : -1]
            return backbone.token_logprobs(states, batch.responses, batch.mask)[0]

    assert torch.equal(logprobs(), logprobs())
    torch.manual_seed(0)
    backbone.causal_lm.train()  # what must not happen
    assert ((logprobs() - logprobs()).exp() - 1).abs().max() > 1e-3
