"""Token batches with explicit lengths.

Prompts end, and responses begin, at one common column: prompts are padded on the left, responses on the right.
Lengths are stored, never inferred from the pad id, so a tokenizer whose pad token *is* its EOS loses nothing::

      0         P = prompt_width        P + T
      | . . x x x | y y y y <eos> . . |         . padding   x prompt   y response
                  ^ response_lengths counts these, the EOS included
"""

import threading
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ppo_lib.errors import BadInput

PATIENCE = 10.0  # seconds that a chat template may take for one short message; they take less than one thousandth
ANSWER = "the-answer-stands-here"  # to see what a chat template puts behind an answer


@dataclass
class TokenBatch:
    """Prompts and responses of one batch.

    Attributes:
        sequences: ``(B, P + T)`` token ids.
        prompt_lengths: ``(B,)`` real prompt tokens.
        response_lengths: ``(B,)`` counted response tokens, the EOS included where there is one.
        prompt_width: ``P``, the column where every response begins.
        shared: with how many tokens all prompts begin alike, such as those of a chat template; the model may read them
            once for all rows (:meth:`ppo_lib.models.backbone.Backbone.hidden_states`). 0 where nobody has looked.
        lengths: pairs of prompt and response length, row by row, as the host knows them without asking the device.
    """

    sequences: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    prompt_width: int
    shared: int = 0
    lengths: list[tuple[int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.sequences.dim() != 2 or not len(self.sequences) or self.sequences.is_floating_point():
            raise ValueError(
                f"sequences has shape {tuple(self.sequences.shape)} and dtype {self.sequences.dtype}, but must be "
                "(B, P + T) token ids, whole numbers, of at least one row"
            )
        rows, width = self.sequences.shape
        if self.prompt_lengths.shape != (rows,) or self.response_lengths.shape != (rows,):
            raise ValueError(
                f"prompt_lengths has shape {tuple(self.prompt_lengths.shape)} and response_lengths "
                f"{tuple(self.response_lengths.shape)}, but both must be ({rows},) like the rows of sequences"
            )
        both = torch.stack([self.prompt_lengths, self.response_lengths])
        prompts, responses = both.tolist()  # one wait for the device
        self.lengths = list(zip(prompts, responses, strict=True))
        if not all(1 <= length <= self.prompt_width for length in prompts):
            raise ValueError("prompt_lengths must lie in [1, prompt_width]: a first token needs a state before it")
        if not all(0 <= length <= width - self.prompt_width for length in responses):
            raise ValueError(f"response_lengths must lie between 0 and T = {width - self.prompt_width}")

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def responses(self) -> Tensor:
        """``(B, T)`` token ids of the responses."""
        return self.sequences[:, self.prompt_width :]

    @property
    def mask(self) -> Tensor:
        """``(B, T)`` float, 1 where a response token counts."""
        columns = torch.arange(self.responses.shape[1], device=self.sequences.device)
        return (columns < self.response_lengths.unsqueeze(1)).float()

    @property
    def attention_mask(self) -> Tensor:
        """``(B, P + T)`` integers, 1 on every real token of prompt and response."""
        columns = torch.arange(self.sequences.shape[1], device=self.sequences.device)
        first = (self.prompt_width - self.prompt_lengths).unsqueeze(1)
        last = (self.prompt_width + self.response_lengths).unsqueeze(1)
        return ((columns >= first) & (columns < last)).long()

    @property
    def position_ids(self) -> Tensor:
        """``(B, P + T)`` positions that count real tokens only, so that padding moves nothing."""
        return (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)

    @property
    def labels(self) -> Tensor:
        """``(B, P + T)`` token ids with -100 outside the response, for :func:`ppo_lib.formulas.losses.sft_loss`."""
        labels = torch.full_like(self.sequences, -100)
        labels[:, self.prompt_width :] = self.responses.masked_fill(self.mask == 0, -100)
        return labels

    @property
    def count(self) -> int:
        """How many response tokens count, of all rows together."""
        return sum(response for _, response in self.lengths)

    def select(self, rows: Sequence[int] | Tensor) -> "TokenBatch":
        """The given rows, with the columns that are padding in all of them cut off.

        Rows as a list ask the device nothing; as a tensor there, once.
        """
        chosen = rows.tolist() if isinstance(rows, Tensor) else rows
        part, index = copy(self), rows_on(self.sequences.device, rows)  # without a check: these lengths were checked
        part.lengths = [self.lengths[row] for row in chosen]
        part.prompt_lengths, part.response_lengths = self.prompt_lengths[index], self.response_lengths[index]
        part.prompt_width, longest = (max(column) for column in zip(*part.lengths, strict=True))
        part.sequences = self.sequences[index, self.prompt_width - part.prompt_width : self.prompt_width + longest]
        return part

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        there = copy(self)
        for name in ("sequences", "prompt_lengths", "response_lengths"):
            setattr(there, name, getattr(self, name).to(device))
        return there


def rows_on(device: torch.device, rows: Sequence[int] | Tensor) -> Tensor:
    """Row numbers as an index on a device; a list goes there without the host's waiting for work that is under way."""
    return rows if isinstance(rows, Tensor) else torch.tensor(rows).to(device, non_blocking=True)


def in_chat_form(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The prompt as a chat model was trained to read it: a user's message, and the head of the answer.

    Raises:
        BadInput: the tokenizer has no chat template, or one that cannot be used.
    """
    if tokenizer.chat_template is None:
        raise BadInput(
            "the tokenizer has no chat template, so chat_template: true cannot work; set chat_template: false, or take "
            "the model's -Instruct version"
        )
    message = [{"role": "user", "content": prompt}]
    try:
        return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates are programs that others wrote
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise BadInput(
            f"the tokenizer's chat template cannot be used ({why}); mend it in tokenizer_config.json or "
            "chat_template.jinja, or set chat_template: false"
        ) from error


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer whose chat template cannot be used, or does not end; it is a program that others wrote.

    Raises:
        BadInput: as :func:`in_chat_form`, or it takes more than ``PATIENCE``.
    """
    told: list[Exception] = []

    def use() -> None:
        try:
            in_chat_form(tokenizer, "a")
            closing_token(tokenizer, [0], chat=True)
        except Exception as error:
            told.append(error)

    # Nothing can stop the template's own code; a thread that does not keep the process alive can be left behind.
    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        raise BadInput(
            f"the tokenizer's chat template has not ended after {PATIENCE:g} seconds on one word; mend it in "
            "tokenizer_config.json or chat_template.jinja, or set chat_template: false"
        )
    if told:
        raise told[0]


def closing_token(tokenizer: PreTrainedTokenizerBase, eos_token_ids: Sequence[int], chat: bool = False) -> int:
    """The token that ends an answer: in a chat, the one by which the template closes a turn; else the tokenizer's EOS.

    Args:
        tokenizer: a Hugging Face tokenizer.
        eos_token_ids: all that end a response, the tokenizer's own first.
        chat: prompts are put into the chat template.
    """
    if not chat:
        return eos_token_ids[0]
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(talk, tokenize=False))
    except Exception:  # a template that knows no answers, or refuses this one
        return eos_token_ids[0]
    tail = tokenizer(text.rpartition(ANSWER)[2], add_special_tokens=False)["input_ids"]
    return next((i for i in tail if i in eos_token_ids or i in tokenizer.all_special_ids), eos_token_ids[0])


def plain_text(text: str, what: str) -> str:
    """The text, if it is one that a tokenizer can read.

    Raises:
        BadInput: it is no text, or holds half a character: a lone surrogate, as in an emoji that was cut in two.
    """
    if not isinstance(text, str):
        raise BadInput(f"{what} is {text!r:.60}, but must be text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{what} ({text[:40]!r}) holds half a character, {text[error.start]!r}, as of an emoji that was cut "
            "in two; take it out"
        ) from error
    return text


def list_of_texts(texts: Sequence[str], name: str) -> list[str]:
    """The texts as a list, each of them checked.

    Raises:
        BadInput: a single text in place of a list of them, or one that is no text.
    """
    if isinstance(texts, (str, bytes)):
        raise BadInput(f"{name} is one text, {texts[:40]!r}, and would be read letter by letter; give a list of texts")
    return [plain_text(text, f"{name[:-1] if name.endswith('s') else name} {i}") for i, text in enumerate(texts)]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_length: int | None = None, chat: bool = False
) -> list[list[int]]:
    """Token ids of each prompt, as a response would follow it (an EOS that the tokenizer appends is taken off).

    A special token that is spelled out in a prompt is read as that token, so that prompts may bring a chat form of
    their own; a beginning that the prompt spells out is not put before it a second time.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompts: texts.
        max_length: refuse prompts of more tokens than this.
        chat: put each prompt into the tokenizer's chat template, which brings its own special tokens.

    Raises:
        BadInput: no prompt, an empty one, or one that is too long, with its number and beginning.
    """
    prompts = list_of_texts(prompts, "prompts")
    if not prompts:
        raise BadInput("prompts is empty; give at least one text")
    texts = [in_chat_form(tokenizer, prompt) for prompt in prompts] if chat else prompts
    rows = [list(ids) for ids in tokenizer(texts, add_special_tokens=not chat)["input_ids"]]
    first = getattr(tokenizer, "bos_token_id", None)
    for i, (ids, text) in enumerate(zip(rows, prompts, strict=True)):
        if not chat and tokenizer.eos_token_id is not None and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            ids.pop()
        if first is not None and len(ids) > 2 and ids[0] == ids[1] == first:
            del ids[0]
        if not ids:
            raise BadInput(f"prompt {i} ({text[:40]!r}) has no token; a response needs something to answer")
        if max_length is not None and len(ids) > max_length:
            raise BadInput(
                f"prompt {i} ({text[:40]!r}...) has {len(ids)} tokens, but at most {max_length} fit; shorten or drop it"
            )
    return rows


def encode_responses(tokenizer: PreTrainedTokenizerBase, responses: Sequence[str]) -> list[list[int]]:
    """Token ids of responses, without an EOS.

    A special token that is spelled out in a response stays text: nobody sampled it. Only an EOS at the very end is
    taken for the end that it means.
    """
    texts = [text.removesuffix(str(tokenizer.eos_token or "")) for text in list_of_texts(responses, "responses")]
    if not texts:
        return []
    rows = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [list(ids) for ids in rows]


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids as it is, special tokens left out."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def shortened(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], limit: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of which no pair is longer than ``limit``: prompts lose their beginning, then responses their end."""
    answers = [list(ids[: limit - 1]) for ids in responses]
    asked = [list(ids[-max(1, limit - len(answer)) :]) for ids, answer in zip(prompts, answers, strict=True)]
    return asked, answers


def pad_pairs(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_token_id: int) -> TokenBatch:
    """Put token ids of prompts and responses into one batch.

    Raises:
        ValueError: different numbers of prompts and responses, none at all, or an empty prompt.
    """
    if len(prompts) != len(responses) or not prompts:
        raise ValueError(f"{len(prompts)} prompts and {len(responses)} responses; give the same number, at least one")
    if not isinstance(pad_token_id, int):
        raise ValueError(f"pad_token_id is {pad_token_id!r}, but must be a token id; any will do, it is never read")
    width, length = max(map(len, prompts)), max(map(len, responses))
    sequences = torch.full((len(prompts), width + length), pad_token_id)
    for row, prompt, response in zip(sequences, prompts, responses, strict=True):
        row[width - len(prompt) : width] = torch.tensor(prompt)
        row[width : width + len(response)] = torch.tensor(response)
    return TokenBatch(
        sequences,
        torch.tensor([len(p) for p in prompts]),
        torch.tensor([len(r) for r in responses]),
        width,
        shared_prefix(prompts),
    )


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """With how many tokens all prompts begin alike; each keeps one of its own, whose state the response begins from."""
    rows = [list(prompt) for prompt in prompts]
    low, high = min(rows), max(rows)  # in the order of a dictionary: what these two share, all others share too
    alike = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(map(len, prompts)))
    return min(alike, min(map(len, prompts)) - 1)


def pair_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    eos_token_id: int,
    max_length: int | None = None,
    chat: bool = False,
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of prompts and of finished responses, which end with the EOS.

    Raises:
        ValueError: as :func:`encode_prompts`, another number of responses than prompts, or a pair that is too long.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts and {len(responses)} responses; give the same number")
    prompt_ids = encode_prompts(tokenizer, prompts, chat=chat)
    response_ids = [[*ids, eos_token_id] for ids in encode_responses(tokenizer, responses)]
    for i, (prompt, response) in enumerate(zip(prompt_ids, response_ids, strict=True)):
        if max_length is not None and len(prompt) + len(response) > max_length:
            raise BadInput(
                f"pair {i} ({prompts[i][:40]!r}...) has {len(prompt) + len(response)} tokens, "
                f"but at most {max_length} fit; shorten or drop it"
            )
    return prompt_ids, response_ids


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    eos_token_id: int,
    pad_token_id: int,
    max_length: int | None = None,
    chat: bool = False,
) -> TokenBatch:
    """A batch of finished prompt-response pairs: each response ends with the EOS.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompts: texts.
        responses: texts, one per prompt; the EOS is appended here.
        eos_token_id: the id that ends a response.
        pad_token_id: any id; what stands in the padding is never read.
        max_length: refuse pairs of more tokens than this.
        chat: put each prompt into the tokenizer's chat template.

    Raises:
        ValueError: as :func:`pair_ids`.
    """
    return pad_pairs(*pair_ids(tokenizer, prompts, responses, eos_token_id, max_length, chat), pad_token_id)


def decode_responses(
    tokenizer: PreTrainedTokenizerBase, batch: TokenBatch, eos_token_ids: Sequence[int] = ()
) -> list[str]:
    """The text of each response: its counted tokens; what ends it, and other special tokens, left out.

    Args:
        tokenizer: a Hugging Face tokenizer.
        batch: with the responses.
        eos_token_ids: ids that end a response; they need not be special tokens.
    """
    rows = [row[:n].tolist() for row, n in zip(batch.responses, batch.response_lengths.tolist(), strict=True)]
    rows = [ids[:-1] if ids and ids[-1] in eos_token_ids else ids for ids in rows]
    return [text_of(tokenizer, ids) for ids in rows]


def decode_prompts(tokenizer: PreTrainedTokenizerBase, batch: TokenBatch) -> list[str]:
    """The text of each prompt, special tokens left out."""
    rows = zip(batch.sequences[:, : batch.prompt_width], batch.prompt_lengths.tolist(), strict=True)
    return [text_of(tokenizer, row[len(row) - n :].tolist()) for row, n in rows]
