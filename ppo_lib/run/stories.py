"""The data of the recipe ``stories``: children's stories, and people's ratings of sentences, read from a folder.

A story model of three million parameters is taught to go on with a story for a few sentences (SFT), a reward model to
tell which of two sentences people rated as more positive, and PPO to write continuations that score well. It is no
assistant, and "positive" is no judgment of quality: the point is the whole path on real weights and real human ratings.

The folder holds public files, which the project does not ship::

    stories/*.jsonl                       TinyStories texts, {"text": ...}               (CDLA-Sharing-1.0)
    sentiment/*_GroundTruth.txt           sentences with the mean of 20 people's ratings,
                                          -4 to 4: id, mean, text, separated by tabs     (cjhutto/vaderSentiment, MIT)
    sentiment/vader_lexicon.txt           words with people's mean rating                (the same)
"""

import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ppo_lib.errors import reading
from ppo_lib.models.registry import Judge, Source, register
from ppo_lib.run.data import read_file
from ppo_lib.trainers.configuration import ConfigError

HELD_OUT = 5  # every fifth story, and every fifth rated sentence, is kept for measuring
MIN_GAP = 1.0  # of the mean ratings in a pair: people disagree about smaller ones
MAX_WORDS = 32  # of a continuation, and of a rated sentence: about 45 of the model's tokens
WANTED = '{"text": ...}'  # a line of the stories
WORD = re.compile(r"[a-z']+")


def source(folder: str) -> Source | None:
    """The source ``stories:FOLDER``."""
    if not folder:
        return None
    return Source(
        demonstrations=partial(demonstrations, folder),
        pairs=partial(preference_pairs, folder),
        prompts=partial(prompts, folder),
        judge=partial(lexicon_judge, folder),
    )


register("stories", source)


def demonstrations(folder: str | Path) -> list[tuple[str, str]]:
    """Pairs of a story's first sentence and the sentences after it, up to ``MAX_WORDS`` words."""
    pairs = []
    for story in stories(folder, "train"):
        opening, *rest = sentences(story)
        response = ""
        for sentence in rest:
            if len(f"{response} {sentence}".split()) > MAX_WORDS:
                break
            response = f"{response} {sentence}".strip()
        if response:
            pairs.append((opening, response))
    return pairs


def prompts(folder: str | Path, split: str = "train") -> list[str]:
    """The first sentences of stories; ``heldout`` ones come from stories that are trained on in no stage."""
    return list(dict.fromkeys(sentences(story)[0] for story in stories(folder, split)))


def preference_pairs(folder: str | Path, split: str = "train") -> list[tuple[str, str, str]]:
    """Comparisons ``(opening, chosen, rejected)`` of rated sentences whose mean ratings differ by ``MIN_GAP`` or more.

    The sentence that people rated as more positive is the chosen one. Sentences of the two splits do not overlap. Each
    pair stands behind some story's opening, as the reward model will meet responses in PPO.
    """
    rated = [row for i, row in enumerate(ratings(folder)) if (i % HELD_OUT == 0) == (split == "heldout")]
    openings, generator = prompts(folder, split), random.Random(0)
    pairs = []
    for (a, first), (b, second) in zip(rated[::2], rated[1::2], strict=False):
        if abs(a - b) >= MIN_GAP:
            better, worse = (first, second) if a > b else (second, first)
            pairs.append((generator.choice(openings), better, worse))
    return pairs


def lexicon_judge(folder: str | Path) -> Judge:
    """A held-out judge, which has seen neither a sentence nor a pair: the response's words, looked up.

    The score is ``s / sqrt(s^2 + 15)`` for the sum ``s`` of the mean ratings of its words (unknown words count 0), the
    scale of Hutto and Gilbert (2014) without their rules for negation and emphasis.
    """
    name = "sentiment/vader_lexicon.txt"
    if not (Path(folder) / name).is_file():
        raise ConfigError(missing(folder, name, "a lexicon of rated words"))
    rows = [(where, row) for where, row in columns(Path(folder) / name) if len(row) > 1]
    rating = {row[0]: number(row[1], where) for where, row in rows}

    def judge(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        totals = [sum(rating.get(word, 0.0) for word in WORD.findall(text.lower())) for text in responses]
        return [float(s / (s * s + 15) ** 0.5) for s in totals]

    return judge


def stories(folder: str | Path, split: str) -> list[str]:
    """The stories of one split that have at least two sentences."""
    files = sorted((Path(folder) / "stories").glob("*.jsonl"))
    if not files:
        raise ConfigError(missing(folder, "stories/*.jsonl", "TinyStories texts"))
    rows = [row for file in files for row in read_file(str(file), WANTED)]
    for where, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ConfigError(f"{where}: holds no text; each line must be {WANTED}")
    texts = [row["text"] for _, row in rows]
    kept = [text for i, text in enumerate(texts) if (i % HELD_OUT == 0) == (split == "heldout")]
    return [text for text in kept if len(sentences(text)) > 1]


def ratings(folder: str | Path) -> list[tuple[float, str]]:
    """Rated sentences of at most ``MAX_WORDS`` words with their mean rating, in a fixed random order."""
    files = sorted((Path(folder) / "sentiment").glob("*_GroundTruth.txt"))
    if not files:
        raise ConfigError(missing(folder, "sentiment/*_GroundTruth.txt", "rated sentences"))
    rated = []
    for where, row in (row for file in files for row in columns(file)):
        if len(row) != 3:
            raise ConfigError(f"{where}: has {len(row)} columns, but must have 3, separated by tabs: id, mean, text")
        if 3 <= len(row[2].split()) <= MAX_WORDS:
            rated.append((number(row[1], where), row[2].strip()))
    random.Random(0).shuffle(rated)
    return rated


def sentences(text: str) -> list[str]:
    """Split after full stops, question and exclamation marks."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


def columns(path: Path) -> list[tuple[str, list[str]]]:
    """The columns of each line of a file with tabs, and where the line stands; empty lines are skipped.

    Raises:
        ConfigError: a file that cannot be read, or is not UTF-8 text.
    """
    try:
        with reading(path):
            lines = path.read_text(encoding="utf-8").split("\n")  # sentences hold what str.splitlines would cut at
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text ({error.reason}); fetch it again") from error
    return [(f"{path.name}, line {n}", line.split("\t")) for n, line in enumerate(lines, start=1) if line]


def number(text: str, where: str) -> float:
    """A rating; ConfigError names the place of what is none."""
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is no rating; it must be a number") from error


def missing(folder: str | Path, name: str, what: str) -> str:
    """The sentence for a file that is not there."""
    return (
        f"'stories:{folder}' needs {name} ({what}) in that folder, and it is not there; the head of "
        "ppo_lib/recipes/stories.yaml says where the files come from"
    )
