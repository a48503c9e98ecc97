"""What the machine at hand can run."""

from importlib.util import find_spec

import torch

from ppo_lib.models.hub import reachable


def choose_recipe() -> tuple[str, str]:
    """The recipe of the capstone for this machine, and why.

    Returns:
        ``preferences`` where there is a GPU, the model hub answers and the package ``datasets`` is installed; else
        ``pocket``, which needs nothing. The second text is the reason, for people.
    """
    if not torch.cuda.is_available():
        return "pocket", "there is no GPU here"
    name = torch.cuda.get_device_name()
    if not reachable():
        return "pocket", f"there is a GPU ({name}), but the model hub cannot be reached"
    if find_spec("datasets") is None:
        return "pocket", f"there is a GPU ({name}), but the package datasets is missing (pip install datasets)"
    return "preferences", f"there is a GPU ({name}) and the model hub answers"
