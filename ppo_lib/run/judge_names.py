"""From the name of a judge in a configuration to something that scores responses.

The same names serve for ``reward_model``, which PPO maximizes, and for ``heldout_judge``, which it never sees:

* the name of a registered source (:mod:`ppo_lib.models.registry`): its reward model, or its function, such as the word
  lexicon of ``stories:FOLDER``;
* a folder that ``train reward`` wrote;
* ``exact_answer``, ``last_number``: a reward that no model gives, :class:`ExactAnswer`, on the answers that stand
  beside the prompts;
* ``OWNER/NAME@COMMIT`` or a folder in hub format: a reward model that others have published, with one output;
* ``package.module:function``: any function of ``(prompts, responses)``.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from ppo_lib.errors import BadInput, reading
from ppo_lib.models import registry
from ppo_lib.models.adapter_folders import REWARD_HEAD, base_name, same_model
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.device import judging_dtype
from ppo_lib.models.files import notes_in
from ppo_lib.models.hub import pinned_model, reason
from ppo_lib.models.loading import LOADING_ERRORS, context_length
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.run.data import load_problems
from ppo_lib.run.samplers import trained_in_chat
from ppo_lib.trainers.configuration import ConfigError, PPOConfig
from ppo_lib.trainers.judging import RewardFunction

NO_REWARD_MODEL = "is no reward model: it must be a sequence classifier with one output"
VERIFIABLE = ("exact_answer", "last_number")
KNOWN = (
    f"'{registry.TOY}', a folder, 'exact_answer', 'last_number', 'stories:FOLDER', OWNER/NAME@COMMIT, "
    "or 'package.module:function'"
)


def load_judge(
    name: str, config: PPOConfig, backbone: Backbone, folder: Path | None = None, key: str = "reward_model"
) -> RewardModel | RewardFunction:
    """The judge of that name.

    Args:
        name: see the module.
        config: of the PPO run; the verifiable rewards read the answers beside its prompts.
        backbone: the policy's; a reward model that was trained on it shares it.
        folder: a reward model known to be trained on ``backbone``; goes before the name.
        key: of the configuration, to be named in errors.

    Raises:
        ValueError: none of these, or one that cannot be loaded.
    """
    if folder is not None:
        return RewardModel.from_pretrained(folder, backbone)
    if function := known_function(name, config):
        return function
    if place := own_folder(name):
        return load_own(place, backbone)
    if is_published(name):
        return PublishedRewardModel(name, backbone.device)
    return import_function(name, key)


def load_own(place: Path, backbone: Backbone) -> RewardModel:
    """A reward model that this library wrote: on the policy's backbone where it was trained on that, else on its own.

    It reads prompts in the form in which it was trained, whatever the policy's is: a chat template or none.
    """
    chat, base = form_of(place), base_name(place)
    if same_model(base, backbone.name):
        model = RewardModel.from_pretrained(place, backbone)
    else:
        dtype = str(backbone.causal_lm.dtype).removeprefix("torch.")
        own = Backbone.from_pretrained(base, str(backbone.device), dtype, bool(chat), backbone.world)
        model = RewardModel.from_pretrained(place, own)
    if chat is not None:
        model.chat_template = chat
    return model


def form_of(place: Path) -> bool | None:
    """Whether a reward model of our own reads prompts in a chat template; None where neither it nor its run says so."""
    if (noted := notes_in(place / REWARD_HEAD).get("chat_template")) is not None:
        return noted == "true"
    with reading(place):
        return trained_in_chat(place) if (place.parent / "config.yaml").is_file() else None


def check_judge(name: str, config: PPOConfig, key: str) -> None:
    """Refuse a judge that cannot be had, without its weights and so in seconds; arguments and errors as above."""
    if known_function(name, config) or own_folder(name):
        return
    if is_published(name):
        read_published(name)
    else:
        import_function(name, key)


def known_function(name: str, config: PPOConfig) -> RewardFunction | None:
    """A verifiable reward or a source's function, by its name; None for other names."""
    if name in VERIFIABLE:
        problems, answers = zip(*load_problems(config.prompts), strict=True)
        asked = [problem + config.prompt_suffix for problem in problems]
        return ExactAnswer(asked, answers, lenient=name == "last_number")
    source = registry.find(name)
    return source.judge() if source and source.judge else None


def own_folder(name: str) -> Path | None:
    """Where a reward model in this library's form lies, by its name; None for other names."""
    source = registry.find(name)
    folder = source.reward_model() if source and source.reward_model else Path(name)
    with reading(name):
        places = [folder, folder / "model", folder / "reward" / "model"]  # the model's, its run's, that of align
        found = next((place for place in places if (place / REWARD_HEAD).exists()), None)
        if found is None and (folder / "value_head.safetensors").exists():
            raise ConfigError(f"{name!r} holds a policy, which writes texts and scores none; give a reward model")
        return found


def is_published(name: str) -> bool:
    """Whether the name is that of a model in hub format."""
    return Path(name).is_dir() or pinned_model(name) is not None


def read_published(name: str) -> tuple[str, dict[str, Any], PreTrainedTokenizerBase]:
    """Where a published reward model lies, at which revision, and its tokenizer; errors as of the class below."""
    pinned = pinned_model(name)
    where, options = (pinned.name if pinned else name), {"revision": pinned and pinned.commit}
    with judge_refusals(name):
        labels = AutoConfig.from_pretrained(where, trust_remote_code=False, **options).num_labels
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
    if labels != 1:
        raise ConfigError(f"judge {name!r} {NO_REWARD_MODEL}")
    if tokenizer.chat_template is None:
        raise ConfigError(f"judge {name!r} has no chat template, so nobody can tell how it wants to read an answer")
    return where, options, tokenizer


@contextmanager
def judge_refusals(name: str) -> Iterator[None]:
    """Turn what goes wrong while a published reward model is loaded into one sentence with its name."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise ConfigError(f"judge {name!r} cannot be loaded: {reason(error)}") from error


class PublishedRewardModel:
    """A reward model as others publish it: a sequence classifier with one output, over the tokenizer's chat template.

    Args:
        name: ``OWNER/NAME@COMMIT``, or a folder in hub format.
        device: where to put it; see :func:`ppo_lib.models.device.judging_dtype` for the precision.
        microbatch: responses per forward pass.

    Raises:
        ConfigError: it cannot be loaded, has several outputs, or has no chat template.
    """

    def __init__(self, name: str, device: torch.device, microbatch: int = 16) -> None:
        where, options, tokenizer = read_published(name)
        load: Any = AutoModelForSequenceClassification.from_pretrained
        options |= {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
        with judge_refusals(name):
            model, report = load(where, dtype=judging_dtype(device), **options)
        if report["missing_keys"]:
            raise ConfigError(f"judge {name!r} {NO_REWARD_MODEL}")
        self.model, self.tokenizer, self.microbatch = model.to(device).eval(), tokenizer, microbatch
        self.name, self.context_length = name, context_length(model.config)
        known, pad = int(model.get_input_embeddings().weight.shape[0]), model.config.get_text_config().pad_token_id
        self.pad = pad if pad is not None and 0 <= pad < known else None

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """One raw score per response, as the model gives it to that conversation alone.

        What is longer than the model's context loses its beginning: the answer counts, and its end is where the score
        is read.
        """
        chats = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        texts = [self.tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
        rows = [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        if self.context_length is not None:
            rows = [ids[-self.context_length :] for ids in rows]
        starts = range(0, len(rows), self.microbatch)
        return [score for start in starts for score in self.score(rows[start : start + self.microbatch])]

    def score(self, rows: list[list[int]]) -> list[float]:
        """Scores of some token ids, padded on the right.

        A classifier reads its score at the last token that is no padding, by the pad id in its configuration. One that
        has none reads the very last token of a text alone; so the padding is an id that none of these texts has.
        """
        pad, width = self.pad, max(map(len, rows))
        if pad is None:
            used = {token for ids in rows for token in ids}
            pad = next(token for token in range(len(used) + 1) if token not in used)
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
        self.model.config.get_text_config().pad_token_id = pad
        scores: list[float] = self.model(input_ids=ids, attention_mask=mask).logits.squeeze(-1).float().tolist()
        return scores


def import_function(name: str, key: str = "reward_model") -> Callable[[list[str], list[str]], list[float]]:
    """The function ``package.module:function``, also of a module in the current folder.

    Raises:
        ConfigError: no such name, or one that cannot be imported, or is not a function.
    """
    if ":" not in name:
        raise ConfigError(f"{key} is {name!r}, but must be {KNOWN}")
    module, _, attribute = name.partition(":")
    if not module or module.startswith("."):
        raise ConfigError(f"{key} is {name!r}, which cannot be imported: it names no module; write {KNOWN}")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except SystemExit as error:
        raise RuntimeError(f"{key} is {name!r}, whose module called sys.exit({error.code!r})") from error
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # what goes wrong inside the user's module is found by its traceback, as all its other errors are
        raise ConfigError(f"{key} is {name!r}, which cannot be imported: {error}") from error
    function = getattr(found, attribute, None)
    if function is None:
        raise ConfigError(f"{key} is {name!r}, which cannot be imported: {module} has no {attribute!r}")
    if not callable(function):
        raise ConfigError(f"{key} is {name!r}, which is not a function of (prompts, responses)")
    return function


NUMBER = r"(?:(?<!\w)[-+])?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"  # in "3-4" the dash is no sign
MARKED = re.compile(rf"####\s*({NUMBER})")
ANY = re.compile(NUMBER)
NO_DIGITS = str.maketrans("", "", "$,+")


def marked_number(text: str) -> Decimal | None:
    """The number after the last ``####``, or None.

    >>> marked_number("48 + 24 = 72 clips. #### 72")
    Decimal('72')
    """
    found = MARKED.findall(text)
    return Decimal(found[-1].translate(NO_DIGITS)) if found else None


def last_number(text: str) -> Decimal | None:
    """The last number of the text, marked or not, or None: what a lenient reader would take for the answer."""
    found = ANY.findall(text)
    return Decimal(found[-1].translate(NO_DIGITS)) if found else None


class ExactAnswer:
    """Reward function: 1 where the response's final number equals the known one, else 0.

    GSM8K writes a solution step by step and ends it with ``#### 72``. The number after the last such mark is compared;
    the right number in another form counts as wrong.

    Args:
        prompts: the problems, as PPO's prompts.
        answers: their solutions, which end in ``#### number``, or are the number alone.
        lenient: take the last number of the response, marked or not. Train on the strict form, and measure both: what
            rises in the strict one alone is the format, not the arithmetic.

    Raises:
        ValueError: an answer without a number, or two answers to the same prompt.
    """

    def __init__(self, prompts: Sequence[str], answers: Sequence[str], lenient: bool = False) -> None:
        self.read = last_number if lenient else marked_number
        self.known: dict[str, Decimal] = {}
        for prompt, answer in zip(prompts, answers, strict=True):
            number = marked_number(answer)
            number = last_number(answer) if number is None else number
            if number is None:
                raise BadInput(f"the answer {answer[-40:]!r} to {prompt[:40]!r} holds no number to compare with")
            if self.known.setdefault(prompt, number) != number:
                raise BadInput(f"the prompt {prompt[:40]!r} has two answers, {self.known[prompt]} and {number}")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Scores, 0.0 or 1.0.

        Raises:
            ValueError: a prompt whose answer is not known.
        """
        unknown = [prompt for prompt in prompts if prompt not in self.known]
        if unknown:
            raise BadInput(f"no answer is known to the prompt {unknown[0][:60]!r}; give the data set that it came from")
        return [
            float(self.read(response) == self.known[prompt])
            for prompt, response in zip(prompts, responses, strict=True)
        ]
