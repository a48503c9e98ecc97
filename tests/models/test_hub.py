"""Names of the hub: only pinned ones are taken, and what cannot be had is told in one sentence with a remedy."""

import importlib

import pytest
from huggingface_hub import errors
from standin_hub import Hub, serving

from ppo_lib.models import hub
from ppo_lib.run.cli import main
from ppo_lib.run.data import load_prompts

# The package that the hub's client speaks HTTP with; it has changed before.
HTTP = importlib.import_module(errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
COMMIT = "0123456789abcdef" * 2 + "01234567"


def http_error(kind):
    """An error as the hub's client raises it."""
    request = HTTP.Request("GET", "https://hub.invalid/api")
    return kind("what the server said", response=HTTP.Response(404, request=request))


def wrapped(cause):
    """The same, as another library passes it on."""
    try:
        try:
            raise cause
        except Exception as error:
            raise OSError("something went wrong; see the docs at https://hub.invalid") from error
    except OSError as error:
        return error


def test_a_model_is_pinned_by_40_digits_and_by_nothing_else():
    assert hub.pinned_model(f"owner/some.model-1@{COMMIT}") == hub.Pinned("owner/some.model-1", COMMIT)
    for text in ("owner/model", "owner/model@main", f"owner/model@{COMMIT[:7]}", f"model@{COMMIT}", "folder"):
        assert hub.pinned_model(text) is None


def test_a_data_set_is_pinned_with_its_configuration_and_split():
    assert hub.pinned_data(f"o/d@{COMMIT}:train[:10%]") == hub.Pinned("o/d", COMMIT, None, "train[:10%]")
    assert hub.pinned_data(f"o/d/main@{COMMIT}:test") == hub.Pinned("o/d", COMMIT, "main", "test")
    for text in ("o/d:train", f"o/d@{COMMIT}", "o/d@main:train", "data/file.jsonl"):
        assert hub.pinned_data(text) is None


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (errors.RevisionNotFoundError, "that commit is not there"),
        (errors.RepositoryNotFoundError, "no such repository"),
        (errors.GatedRepoError, "agree to terms"),
        (errors.HfHubHTTPError, "the hub answered with an error"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda error: error, wrapped])
def test_each_answer_of_the_hub_has_its_sentence(cause, words, wrap):
    assert words in hub.reason(wrap(http_error(cause)))


@pytest.mark.parametrize(
    "cause",
    [
        errors.LocalEntryNotFoundError("x"),
        errors.OfflineModeIsEnabled("x"),
        ConnectionError("x"),
        HTTP.ConnectError("x"),
        HTTP.ReadError("x"),
        HTTP.RemoteProtocolError("x"),
    ],
)
def test_no_network_names_what_works_without_one(cause):
    told = hub.reason(wrapped(cause))
    assert "cannot be reached" in told
    assert "local folder" in told
    assert "--recipe pocket" in told


def test_other_errors_are_told_as_they_are_in_one_line():
    assert hub.reason(ValueError("bad\n  config")) == "bad config"


def test_a_hub_client_that_tries_again_with_a_closed_connection_could_not_reach_the_hub():
    """As huggingface_hub 1.5 does without a network; another RuntimeError is what it says."""
    error = OSError("Can't load the configuration of 'owner/model'")
    error.__cause__ = RuntimeError("Cannot send a request, as the client has been closed.")
    assert hub.reason(error) == hub.OFFLINE
    error.__cause__ = RuntimeError("something else")
    assert hub.reason(error) == "Can't load the configuration of 'owner/model'"


def test_pin_prints_what_a_configuration_wants_by_the_name_that_the_hub_has_now(monkeypatch, capsys):
    class Info:
        id, sha = "owner/thing", COMMIT

    monkeypatch.setattr(hub.HfApi, "repo_info", lambda self, name, repo_type: Info())
    assert main(["pin", "thing"]) == 0
    assert hub.pinned_model(capsys.readouterr().out.strip()) == hub.Pinned("owner/thing", COMMIT)
    assert main(["pin", "thing", "--dataset"]) == 0
    assert hub.pinned_data(capsys.readouterr().out.strip()) == hub.Pinned("owner/thing", COMMIT, None, "train")


def test_pin_without_a_network_says_so_in_one_line(monkeypatch, capsys):
    def fail(self, name, repo_type):
        raise HTTP.ConnectError("[Errno 111] Connection refused")  # as it comes from the client's HTTP library

    monkeypatch.setattr(hub.HfApi, "repo_info", fail)
    assert main(["pin", "owner/model"]) == 2
    told = capsys.readouterr().err
    assert "model 'owner/model' cannot be pinned: the hub cannot be reached" in told
    assert "local cache" not in told
    assert told.count("\n") == 1


def test_pin_says_what_is_wrong_in_one_line(monkeypatch, capsys):
    def fail(self, name, repo_type):
        raise http_error(errors.RepositoryNotFoundError)

    monkeypatch.setattr(hub.HfApi, "repo_info", fail)
    assert main(["pin", "owner/nothing"]) == 2
    told = capsys.readouterr().err
    assert "owner/nothing" in told
    assert "no such repository" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("source", ["owner/data", "owner/data:train", "owner/data/main:train", "owner/data@main:train"])
def test_a_data_set_that_is_not_pinned_is_refused_with_what_to_write(source):
    with pytest.raises(ValueError, match="python -m ppo_lib pin owner/data --dataset") as error:
        load_prompts(source)
    assert "owner/data@COMMIT:SPLIT" in str(error.value)


def test_reachable_asks_the_hub_that_is_set_up_whatever_it_answers(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    with serving(Hub({})) as server:
        monkeypatch.setattr(hub.constants, "ENDPOINT", server.endpoint)
        assert hub.reachable()
        assert server.asked == ["HEAD /"]
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        assert not hub.reachable()
        assert len(server.asked) == 1
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    assert not hub.reachable()  # nobody is there any more
