"""The proof-reader: good English passes, scraps and salad do not, and it knows nothing of truth."""

import random

import pytest

from ppo_lib.book.recordings import load_recorded
from ppo_lib.pocket.english import PIECE, english, is_known, known_words, may_follow, proof_read, sentences

GOOD = [
    "The capital of Kenya is Nairobi.",
    "Nairobi is the capital of Kenya.",
    "In Italy, the capital of Italy is Rome.",
    "La Paz is not the capital of Peru; it is Lima.",
    "I think that the capital of Peru is Lima, but I am not sure.",
    "The capital of Germany is Germany, a country located in Europe. It's a country with a rich history.",
    "The capital of Canada is Toronto, known for its cultural heritage, vibrant arts scene, and natural beauty.",
    "Madagascar is a country in the southeastern part of Africa, bordered by South Africa to its east.",
    "Ottawa",
]
BAD = [
    "of the is Nairobi capital Kenya",
    "capital the is of a and the Paris.",
    "to to to to he to",
    "Paris Paris Paris Paris Paris Paris Paris Paris",
    "city world famous magnificent great nation glorious capital wonderful beautiful",
    "Espaío: Esperaivo By Conseguimacordá ... emb",
    'you can titu LOLs "ΜεραλαΈ".the number of flood مل.__property_{"true "Epoc',
    "",
]


def test_every_good_answer_is_above_every_bad_one():
    assert min(map(english, GOOD)) > 0.99
    assert max(map(english, BAD)) < 0.8


def test_a_lie_is_as_english_as_the_truth():
    assert english("The capital of Kenya is Paris.") == english("The capital of Kenya is Nairobi.") == 1.0


@pytest.fixture(scope="module")
def finished_answers():
    """Whole answers of a real model at temperature 1, of known words."""
    texts = [text for row in load_recorded("capitals/h200/rankings").samples for text in row["responses"]]
    return [t for t in texts if t.endswith(".") and len(t.split()) > 4 and all(map(is_known, PIECE.findall(t)))]


def test_the_same_words_shuffled_are_salad(finished_answers):
    """What a share of known words cannot see at all: shuffling leaves every word a word."""
    rng, fewer, whole, salad = random.Random(0), 0, 0.0, 0.0
    for text in finished_answers[:400]:
        words = text.rstrip(".").split()
        rng.shuffle(words)
        shuffled = " ".join(words) + "."
        fewer += english(shuffled) < english(text)
        whole, salad = whole + english(text) / 400, salad + english(shuffled) / 400
    assert fewer / 400 > 0.9
    assert whole > 0.98
    assert salad < 0.75


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [
        ("the", "capital", True),
        ("the", "of", False),
        ("the", ".", False),
        ("a", "island", False),
        ("a", "european", True),
        ("an", "island", True),
        ("an", "city", False),
        ("of", "the", True),
        ("of", ".", False),
        ("in", "and", False),
        ("is", "the", True),
        ("is", "are", False),
        ("has", "been", True),
        ("will", "be", True),
        ("and", "is", True),
        ("they", "of", False),
        ("to", "to", False),
        ("that", "that", True),
    ],
)
def test_which_neighbours_english_allows(first, second, allowed):
    assert may_follow(first, second) is allowed


def test_what_it_finds_can_be_counted_by_hand():
    assert proof_read("The city zzgh the of Rome.") == {"pieces": 7, "unknown": 1, "broken": 1}
    assert english("The city zzgh the of Rome.") == pytest.approx(1 - 3 / 7)


def test_a_sentence_of_seven_words_needs_a_verb():
    assert proof_read("The old capital city of that big country.")["broken"] == 1
    assert proof_read("The old capital city of that country lies far.")["broken"] == 0


def test_dots_inside_words_end_no_sentence():
    assert sentences("The U.S. is big. It has 3.5 parts.") == ["The U.S. is big.", "It has 3.5 parts."]


def test_names_are_known_by_their_form_and_scraps_are_not():
    assert all(map(is_known, ["Nairobi", "Al-Marioq", "city", "it's", "17", "—"]))
    assert not any(map(is_known, ["dataglussomiivu", "BTo", "Espaío", "__", "مل"]))


def test_the_list_holds_words_and_no_scraps():
    assert 20_000 < len(known_words()) < 30_000
    assert {"capital", "city", "known", "heritage"} <= known_words()
    assert not {"captial", "emb zz", "dataglussomiivu", "atodigi"} & known_words()
