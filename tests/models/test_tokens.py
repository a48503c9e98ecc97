"""Batches with explicit lengths: nothing is inferred from the pad id."""

import pytest
import torch
from tiny import EOS, PAD, byte_tokenizer

from ppo_lib.models.tokens import TokenBatch, decode_prompts, decode_responses, encode_pairs, encode_prompts, pad_pairs


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
