"""The data of the recipe ``stories``: split without overlap, pairs that follow the ratings, a judge of words."""

import json
from pathlib import Path

import pytest

from ppo_lib.errors import BadInput
from ppo_lib.run import stories
from ppo_lib.run.data import load_demonstrations, load_pairs, load_prompts

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def folder(tmp_path):
    """Twenty stories and twenty rated sentences."""
    (tmp_path / "stories").mkdir()
    (tmp_path / "sentiment").mkdir()
    texts = [f"Tom {i} had a cat. The cat was red. {'It ran and ran. ' * 9}It slept." for i in range(19)]
    lines = [json.dumps({"text": text}) for text in [*texts, "One sentence alone."]]
    (tmp_path / "stories" / "a.jsonl").write_text("\n".join(lines))
    rated = [f"{i}\t{i % 4 - 1.5}\tthe film {i} is what it is" for i in range(20)]
    (tmp_path / "sentiment" / "film_GroundTruth.txt").write_text("\n".join(rated))
    (tmp_path / "sentiment" / "vader_lexicon.txt").write_text("good\t1.9\t0.9\t[2]\nbad\t-2.5\t0.6\t[-3]\n")
    return tmp_path


def test_a_demonstration_is_an_opening_and_whole_sentences_up_to_the_limit(folder):
    for opening, response in stories.demonstrations(folder):
        assert opening.startswith("Tom")
        assert opening.endswith("had a cat.")
        assert response.startswith("The cat was red.")
        assert response.endswith(".")
        assert 0 < len(response.split()) <= stories.MAX_WORDS
    assert load_demonstrations(f"stories:{folder}") == stories.demonstrations(folder)


def test_what_is_held_out_is_trained_on_nowhere(folder):
    train, held_out = (load_prompts(f"stories:{folder}", split) for split in ("train", "heldout"))
    assert held_out
    assert not set(train) & set(held_out)
    assert {opening for opening, _ in stories.demonstrations(folder)} <= set(train)
    sentences = [
        {text for _, *pair in load_pairs(f"stories:{folder}", split) for text in pair} for split in ("train", "heldout")
    ]
    assert not sentences[0] & sentences[1]


def test_the_chosen_sentence_is_the_one_that_people_rated_higher_by_a_clear_margin(folder):
    means = {text: mean for mean, text in stories.ratings(folder)}
    pairs = stories.preference_pairs(folder)
    assert pairs
    assert all(means[chosen] - means[rejected] >= stories.MIN_GAP for _, chosen, rejected in pairs)
    assert {opening for opening, _, _ in pairs} <= set(stories.prompts(folder))


def test_the_word_judge_adds_ratings_and_stays_between_minus_1_and_1(folder):
    judge = stories.lexicon_judge(folder)
    good, better, bad, neutral = judge([""] * 4, ["A good cat.", "good good cat", "A BAD dog!", "A dog."])
    assert good == pytest.approx(1.9 / (1.9**2 + 15) ** 0.5)
    assert -1 < bad < neutral == 0 < good < better < 1


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("stories", stories.prompts),
        ("sentiment/film_GroundTruth.txt", stories.preference_pairs),
        ("sentiment/vader_lexicon.txt", stories.lexicon_judge),
    ],
)
def test_a_file_that_is_missing_is_named_with_the_place_that_tells_its_source(folder, missing, call):
    target = folder / missing
    for path in [*target.iterdir()] if target.is_dir() else [target]:
        path.unlink()
    with pytest.raises(ValueError, match=r"needs (stories|sentiment)/\S+ .*recipes/stories\.yaml"):
        call(folder)


@pytest.mark.skipif(not (REAL / "stories").is_dir(), reason="needs ../shared/data, which is not here")
def test_the_real_files_are_read_and_the_word_judge_agrees_with_people_more_often_than_not():
    assert len(stories.demonstrations(REAL)) > 2000
    pairs = stories.preference_pairs(REAL, "heldout")
    assert len(pairs) > 1000
    judge = stories.lexicon_judge(REAL)
    prompts, chosen, rejected = zip(*pairs, strict=True)
    verdicts = list(zip(judge(prompts, chosen), judge(prompts, rejected), strict=True))
    right = sum(a > b for a, b in verdicts) + 0.5 * sum(a == b for a, b in verdicts)
    assert 0.65 < right / len(pairs) < 0.75  # seen: 0.68; a coin gives 0.5 with a standard error of 0.014


def test_files_are_cut_at_their_line_ends_and_nowhere_else(tmp_path):
    """Texts hold characters that str.splitlines cuts at, and JSON keeps them as they are."""
    odd = "One\u2028two\x85three. Four five\u2029six."
    for name in ("stories", "sentiment"):
        (tmp_path / name).mkdir()
    rows = "".join(json.dumps({"text": odd}, ensure_ascii=False) + "\n" for _ in range(6))
    (tmp_path / "stories" / "a.jsonl").write_text(rows, encoding="utf-8")
    rated = "".join(f"{i}\t{i % 3}\tone\x85two\u2028three {i}\n" for i in range(6))
    (tmp_path / "sentiment" / "film_GroundTruth.txt").write_text(rated, encoding="utf-8")
    (tmp_path / "sentiment" / "vader_lexicon.txt").write_text("go\u2028od\t1.9\t0.9\n", encoding="utf-8")
    assert len(stories.stories(tmp_path, "train")) == 4
    assert sorted(text for _, text in stories.ratings(tmp_path)) == [f"one\x85two\u2028three {i}" for i in range(6)]
    assert stories.lexicon_judge(tmp_path)([""], ["a cat"]) == [0.0]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("stories/a.jsonl", '{"text": "A."}\n{"text": \n', r"a\.jsonl, line 2: is not JSON"),
        ("stories/a.jsonl", '{"story": "A."}\n', r"a\.jsonl, line 1: holds no text"),
        ("stories/a.jsonl", "3\n", r"a\.jsonl, line 1: holds no text"),
        ("sentiment/film_GroundTruth.txt", "1\t0.5\ta b c\n2\ta b c\n", "line 2: has 2 columns, but must have 3"),
        ("sentiment/film_GroundTruth.txt", "1\thigh\ta b c\n", "line 1: 'high' is no rating"),
        ("sentiment/vader_lexicon.txt", "good\tvery\n", "line 1: 'very' is no rating"),
    ],
)
def test_a_damaged_file_is_refused_naming_file_and_line(folder, file, text, words):
    (folder / file).write_text(text)
    read = {"stories": stories.prompts, "film_": stories.ratings, "vader": stories.lexicon_judge}
    with pytest.raises(BadInput, match=words):
        next(what for name, what in read.items() if name in file)(folder)
