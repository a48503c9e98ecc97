"""Rankings: every labeler and model will do, held-out questions stay out of training, and a run can be resumed."""

import json

import pytest

from ppo_lib.models.backbone import Backbone
from ppo_lib.pocket import capitals
from ppo_lib.run import ranking
from ppo_lib.run.cli import main
from ppo_lib.run.data import load_pairs
from ppo_lib.run.ranking import RankConfig, Ranker, load_labeler

SMALL = ["--set", "model=pocket:sft", "--set", "chat_template=false", "--set", "max_new_tokens=8", "--quiet"]


def few(monkeypatch, count=3):
    """So few questions of each split."""
    monkeypatch.setattr(ranking, "load_prompts", lambda source, split="train": capitals.prompts(split)[:count])


def rows(folder, split):
    return [json.loads(line) for line in (folder / "rankings" / f"{split}.jsonl").read_text().splitlines()]


def test_the_command_leaves_rankings_that_the_reward_stage_reads(tmp_path, monkeypatch, capsys):
    few(monkeypatch)
    assert main(["rank", "--recipe", "capitals", "--out", str(tmp_path / "r"), *SMALL, "--set", "rounds=2"]) == 0
    assert "at most 6 rankings of 4 answers to training questions and 3 for held-out ones" in capsys.readouterr().out
    train, heldout = (rows(tmp_path / "r", split) for split in ("train", "heldout"))
    assert {row["prompt"] for row in train} <= set(capitals.prompts()[:3])
    assert {row["prompt"] for row in heldout} <= set(capitals.prompts("heldout")[:3])
    assert train
    assert all(len(set(row["responses"])) == 4 for row in train + heldout)
    pairs = load_pairs(str(tmp_path / "r" / "rankings" / "train.jsonl"))
    assert len(pairs) == 6 * len(train)
    assert pairs[0] == (train[0]["prompt"], *train[0]["responses"][:2])


def test_answers_are_ranked_as_the_labeler_says(tmp_path, monkeypatch):
    few(monkeypatch)
    (tmp_path / "mine.py").write_text(
        "def shortest(prompt, responses):\n"
        "    return sorted(range(len(responses)), key=lambda i: (len(responses[i]), responses[i]))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["rank", "--recipe", "capitals", "--out", "r", *SMALL, "--set", "labeler=mine:shortest"]) == 0
    for row in rows(tmp_path / "r", "train"):
        assert row["responses"] == sorted(row["responses"], key=lambda text: (len(text), text))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("[0, 1, 2]", r"returned \[0, 1, 2\] for 4 responses"),
        ("[0, 1, 2, 2]", r"returned \[0, 1, 2, 2\] for 4 responses"),
        ("[1, 2, 3, 4]", r"returned \[1, 2, 3, 4\] for 4 responses"),
        ("0.5", "returned 0.5"),
        ("[True, False, 2, 3]", "returned"),
        ("None", "returned None"),
    ],
)
def test_what_is_no_ranking_is_refused_in_one_sentence(returned, said):
    prompts = {"train": capitals.prompts()[:1]}
    config = RankConfig(max_new_tokens=8, tries=12)
    ranker = Ranker(config, Backbone.from_pretrained("pocket:sft"), prompts, lambda p, r: eval(returned))
    with pytest.raises(ValueError, match=said + ".*must return the number of each response once, the best first"):
        ranker.step()


def test_a_run_that_was_stopped_ends_with_the_same_rankings(monkeypatch):
    prompts = {"train": capitals.prompts()[:4], "heldout": capitals.prompts("heldout")[:2]}
    config, labeler = RankConfig(max_new_tokens=6, batch=12), load_labeler("capitals")
    make = lambda: Ranker(config, Backbone.from_pretrained("pocket:sft"), prompts, labeler)  # noqa: E731
    whole, part = make(), make()
    assert whole.iterations == 3
    for _ in range(3):
        whole.step()
    part.step()
    tensors, values = part.state()
    values = json.loads(json.dumps(values))
    again = make()
    again.load_state(tensors, values)
    while again.iteration < again.iterations:
        again.step()
    assert again.rankings == whole.rankings


def test_who_can_rank_and_who_cannot():
    with pytest.raises(ValueError, match="'pocket' has no labelers; give 'capitals' or"):
        load_labeler("pocket")
    with pytest.raises(ValueError, match="labeler is 'nobody'"):
        load_labeler("nobody")
    with pytest.raises(ValueError, match="tries is 2, but must be at least answers, which is 4"):
        RankConfig(tries=2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "responses": ["x"]}', "line 2: is no ranking"),
        ('{"prompt": "", "responses": ["x", "y"]}', "line 2: is no ranking"),
        ('{"prompt": "a", "responses": ["x", 3]}', "line 2: is no ranking"),
        ('{"prompt": "a", "chosen": "x", "rejected": "y"}', "line 2: is no ranking"),
    ],
)
def test_a_file_of_rankings_with_another_line_is_refused(tmp_path, line, said):
    file = tmp_path / "rankings.jsonl"
    file.write_text('{"prompt": "a", "responses": ["x", "y", "z"]}\n' + line + "\n")
    with pytest.raises(ValueError, match=said):
        load_pairs(str(file))
    file.write_text('{"prompt": "a", "responses": ["x", "y", "z"]}\n')
    assert load_pairs(str(file)) == [("a", "x", "y"), ("a", "x", "z"), ("a", "y", "z")]


@pytest.mark.slow
def test_align_runs_from_rankings_to_the_report(tmp_path, monkeypatch, capsys):
    few(monkeypatch, 6)
    tiny = ["--set", "iterations=1", "--set", "max_steps=1", "--set", "evaluation.count=6"]
    arguments = ["align", "--recipe", "capitals", "--out", str(tmp_path), *SMALL, *tiny]
    assert main([*arguments, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "right by the held-out judge" in said
    assert "held-out pairs that the reward model orders rightly" in said
    assert (tmp_path / "report.html").exists()
    assert main([*arguments, "--resume"]) == 0
    assert "rank: already done" in capsys.readouterr().out
