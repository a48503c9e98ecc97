"""Bad input is told apart from faults: what the system refuses of the library's own files is bad input, no more."""

import errno

import pytest

from ppo_lib.errors import BadInput, reading, writing
from ppo_lib.trainers.configuration import ConfigError


def test_who_catches_value_errors_catches_bad_input_too():
    assert issubclass(BadInput, ValueError)
    assert issubclass(ConfigError, BadInput)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_one_sentence_with_the_way_on(code):
    with pytest.raises(BadInput, match=r"'a' cannot be written: no more; make room there .* --resume"), writing("a"):
        raise OSError(code, "no more")


def test_a_folder_that_may_not_be_written_or_read_is_named():
    with pytest.raises(BadInput, match=r"'a' cannot be written: not yours; give a folder that you may"), writing("a"):
        raise PermissionError(errno.EACCES, "not yours")
    with pytest.raises(BadInput, match=r"'a' cannot be read: not yours"), reading("a"):
        raise PermissionError(errno.EACCES, "not yours")


def test_what_a_rust_writer_says_of_the_disk_counts_as_what_the_system_said():
    """safetensors and tokenizers raise errors of their own, in which the system's number is a text."""
    with pytest.raises(BadInput, match="make room there"), writing("runs/a"):
        raise Exception("No space left on device (os error 28)")


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), RuntimeError("a bug"), BadInput("known")])
@pytest.mark.parametrize("doing", [reading, writing])
def test_other_errors_pass_as_they_are(error, doing):
    with pytest.raises(type(error)) as caught, doing("runs/a"):
        raise error
    assert caught.value is error
