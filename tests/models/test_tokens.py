"""Batches with explicit lengths: nothing is inferred from the pad id."""

import pytest
import torch
from tiny import EOS, PAD, byte_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ppo_lib.errors import BadInput
from ppo_lib.models import tokens
from ppo_lib.models.tokens import (
    TokenBatch,
    check_chat_template,
    closing_token,
    decode_prompts,
    decode_responses,
    encode_pairs,
    encode_prompts,
    encode_responses,
    in_chat_form,
    pad_pairs,
    pair_ids,
    shortened,
)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def test_prompts_end_and_responses_begin_at_one_column():
    batch = pad_pairs([[5, 6, 7], [8]], [[9], [10, 11]], pad_token_id=PAD)
    assert batch.sequences.tolist() == [[5, 6, 7, 9, PAD], [PAD, PAD, 8, 10, 11]]
    assert batch.prompt_width == 3
    assert batch.responses.tolist() == [[9, PAD], [10, 11]]
    assert batch.mask.tolist() == [[1, 0], [1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert batch.labels.tolist() == [[-100, -100, -100, 9, -100], [-100, -100, -100, 10, 11]]


def test_position_ids_count_real_tokens_only():
    batch = pad_pairs([[5, 6, 7], [8]], [[9], [10, 11]], pad_token_id=PAD)
    real = batch.attention_mask.bool()
    assert batch.position_ids[0][real[0]].tolist() == [0, 1, 2, 3]
    assert batch.position_ids[1][real[1]].tolist() == [0, 1, 2]
    assert (batch.position_ids >= 0).all()


@pytest.mark.parametrize("pad", [PAD, EOS, 5, 9])
def test_the_pad_id_may_be_any_token_the_eos_included(pad):
    """Lengths are stored; a response full of the pad's id keeps every token."""
    batch = pad_pairs([[5, pad], [8]], [[pad, pad, EOS], [EOS]], pad_token_id=pad)
    assert batch.response_lengths.tolist() == [3, 1]
    assert batch.prompt_lengths.tolist() == [2, 1]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]


def test_an_empty_response_is_its_eos(tokenizer):
    batch = encode_pairs(tokenizer, ["a", "b"], ["", "xyz"], EOS, PAD)
    assert batch.response_lengths.tolist() == [1, 4]
    assert batch.responses[0, 0] == EOS
    assert batch.responses[1, 3] == EOS
    assert decode_responses(tokenizer, batch) == ["", "xyz"]


def test_text_goes_in_and_comes_out(tokenizer):
    prompts, responses = ["What is a frog?", "Hé 🐸"], ["An amphibian.\n", "ü"]
    batch = encode_pairs(tokenizer, prompts, responses, EOS, PAD)
    assert decode_prompts(tokenizer, batch) == prompts
    assert decode_responses(tokenizer, batch) == responses


def test_select_cuts_the_columns_that_all_rows_pad(tokenizer):
    batch = pad_pairs([[5, 6, 7], [8], [9, 9]], [[9, 9, 9], [10], [11, 12]], pad_token_id=PAD)
    part = batch.select(torch.tensor([2, 1]))
    assert part.sequences.tolist() == [[9, 9, 11, 12], [PAD, 8, 10, PAD]]
    assert (part.prompt_width, len(part)) == (2, 2)
    assert part.prompt_lengths.tolist() == [2, 1]
    assert part.response_lengths.tolist() == [2, 1]
    assert part.to("cpu").sequences.tolist() == part.sequences.tolist()


def test_an_eos_that_the_tokenizer_appends_is_taken_off_the_prompt(tokenizer):
    class Appending:
        eos_token_id = EOS

        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [[*ids, EOS] for ids in tokenizer(texts)["input_ids"]]}

    assert encode_prompts(Appending(), ["ab"]) == encode_prompts(tokenizer, ["ab"])


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([], {}, ["prompts is empty"]),
        (["ok", ""], {}, ["prompt 1", "''", "no token"]),
        (["ok", "much too long"], {"max_length": 4}, ["prompt 1", "much too long", "13 tokens", "at most 4"]),
    ],
)
def test_prompts_that_cannot_be_used_are_named(tokenizer, prompts, options, words):
    with pytest.raises(ValueError, match="prompt") as error:
        encode_prompts(tokenizer, prompts, **options)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("prompts", "responses", "options", "words"),
    [
        (["a"], ["x", "y"], {}, ["1 prompts and 2 responses"]),
        (["a", "b"], ["x"], {}, ["2 prompts and 1 responses"]),
        ([], [], {}, ["prompts is empty"]),
        (["a"], ["x" * 9], {"max_length": 10}, ["pair 0", "11 tokens", "at most 10"]),
    ],
)
def test_pairs_that_cannot_be_used_are_named(tokenizer, prompts, responses, options, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        encode_pairs(tokenizer, prompts, responses, EOS, PAD, **options)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("prompt_lengths", "response_lengths", "words"),
    [
        ([1], [1, 1], ["prompt_lengths", "(1,)", "(2,)"]),
        ([1, 1], [1], ["response_lengths", "(1,)", "(2,)"]),
        ([0, 1], [1, 1], ["prompt_lengths", "[1, prompt_width]"]),
        ([1, 3], [1, 1], ["prompt_lengths", "[1, prompt_width]"]),
        ([1, 1], [1, 4], ["response_lengths", "T = 3"]),
        ([1, 1], [-1, 1], ["response_lengths", "T = 3"]),
    ],
)
def test_lengths_that_do_not_fit_are_refused(prompt_lengths, response_lengths, words):
    with pytest.raises(ValueError, match="lengths") as error:
        TokenBatch(torch.zeros(2, 5).long(), torch.tensor(prompt_lengths), torch.tensor(response_lengths), 2)
    assert all(word in str(error.value) for word in words), error.value


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A tokenizer after Llama's: a blank is put before every text, and taken off where one is written."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyz.:?\n", "▁yes", "▁no", "yes", "no"]
    merges = [(a, b) for word in ("yes", "no") for a, b in [*pairwise_merges(word)]]
    pieces += [a + b for a, b in merges if a + b not in pieces]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def pairwise_merges(word):
    """Merges that build a word from its letters, and then with a blank before it."""
    for end in range(1, len(word)):
        yield word[:end], word[end]
    yield "▁", word


@pytest.mark.parametrize("text", ["yes", "no.", "a  b", "a.\nyes"])
@pytest.mark.parametrize("kind", [byte_tokenizer, sentencepiece_like])
def test_a_text_has_one_form_sampled_stored_or_judged(kind, text):
    """What is read of a response's text are the tokens that it came from."""
    tokenizer = kind()
    (ids,) = encode_responses(tokenizer, [text])
    batch = pad_pairs([[5, 6]], [[*ids, tokenizer.eos_token_id]], 0)
    assert decode_responses(tokenizer, batch, [tokenizer.eos_token_id]) == [text]
    assert encode_responses(tokenizer, decode_responses(tokenizer, batch)) == [ids]


def test_a_blank_at_the_joint_is_kept_or_is_the_tokenizers_own():
    """Tokenizers after Llama's begin every text with a blank, and write none there: both texts are one response."""
    plain, blank = encode_responses(byte_tokenizer(), ["yes", " yes"])
    assert len(blank) == len(plain) + 1
    tokenizer = sentencepiece_like()
    plain, blank = encode_responses(tokenizer, ["yes", " yes"])
    assert tokenizer.convert_ids_to_tokens(plain) == ["▁yes"]
    assert plain == blank


def test_a_prompt_that_spells_out_its_beginning_does_not_begin_twice():
    tokenizer = sentencepiece_like()
    assert encode_prompts(tokenizer, ["<s>yes"])[0].count(1) == 1
    assert encode_prompts(tokenizer, ["yes"])[0].count(1) == 1


def test_special_tokens_spelled_out_are_tokens_in_a_prompt_and_text_in_a_response(tokenizer):
    assert EOS in encode_prompts(tokenizer, ["a<eos>b"])[0]
    (ids,) = encode_responses(tokenizer, ["a<eos>b"])
    assert EOS not in ids
    assert tokenizer.decode(ids) == "a<eos>b"
    assert encode_responses(tokenizer, ["a<eos>"]) == encode_responses(tokenizer, ["a"])  # or it would end twice


def test_an_answer_is_closed_as_the_chat_template_closes_it():
    tokenizer = byte_tokenizer()
    tilde = tokenizer.convert_tokens_to_ids("~")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}~{% endfor %}"
    assert closing_token(tokenizer, [EOS, tilde], chat=True) == tilde
    assert closing_token(tokenizer, [EOS, tilde], chat=False) == EOS
    assert closing_token(tokenizer, [EOS], chat=True) == EOS  # a letter that ends nothing
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<pad>{% endfor %}"
    assert closing_token(tokenizer, [EOS], chat=True) == PAD  # a special token ends, whoever lists it
    tokenizer.chat_template = "{{ raise_exception('no answers') }}"
    assert closing_token(tokenizer, [EOS], chat=True) == EOS


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_chat_template_that_does_not_end_is_refused_before_anything_is_read_by_it(monkeypatch, role):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    check_chat_template(tokenizer)
    monkeypatch.setattr(tokens, "PATIENCE", 0.2)
    # Millions of turns, a second or so: longer than this patience, and yet an end for the thread that is left.
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == '" + role + "' %}{% for a in range(3000) %}{% for b in range(3000) %}"
        "{% endfor %}{% endfor %}{% endif %}{% endfor %}"
    )
    with pytest.raises(BadInput, match=r"chat template has not ended after 0\.2 seconds on one word; mend it"):
        check_chat_template(tokenizer)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in %}", "TemplateSyntaxError"),
        ("{{ nothing.there.at.all }}", "UndefinedError"),
        ("{{ raise_exception('not for you') }}", "not for you"),
        ("{{ ''.__class__.__mro__ }}", "Error"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused_in_a_sentence(template, words):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match="chat template cannot be used") as told:
        in_chat_form(tokenizer, "Hi")
    assert words in str(told.value)
    assert "chat_template: false" in str(told.value)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("one text", "prompts is one text, 'one text', and would be read letter by letter"),
        (["fine", "cut \ud83d"], r"prompt 1 .* holds half a character"),
        ([None], "prompt 0 is None, but must be text"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(tokenizer, texts, words):
    with pytest.raises(BadInput, match=words):
        encode_prompts(tokenizer, texts)


def test_what_just_fits_is_taken(tokenizer):
    assert [len(ids) for ids in encode_prompts(tokenizer, ["four"], max_length=4)] == [4]
    asked, answers = pair_ids(tokenizer, ["four"], ["six"], EOS, max_length=8)  # and the EOS
    assert [len(asked[0]), len(answers[0])] == [4, 4]


def test_a_prompt_that_is_nothing_but_an_eos_keeps_it(tokenizer):
    assert encode_prompts(tokenizer, ["<eos>", "a<eos>"])[0] == [EOS]
    assert len(encode_prompts(tokenizer, ["a<eos>"])[0]) == 1


def test_what_is_too_long_loses_the_beginning_of_its_prompt_then_the_end_of_its_answer():
    assert shortened([[1, 2, 3]], [[4, 5]], 4) == ([[2, 3]], [[4, 5]])
    assert shortened([[1, 2, 3]], [[4, 5, 6, 7]], 3) == ([[3]], [[4, 5]])
    assert shortened([[1]], [[4]], 3) == ([[1]], [[4]])
