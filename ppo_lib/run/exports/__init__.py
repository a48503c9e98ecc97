"""A PPO configuration in the words of OpenRLHF or veRL, key by key, with what differs in meaning.

    python -m ppo_lib export verl --recipe NAME

Each target is a module with one function from the configuration to a :class:`Translation`. Every key of ours ends up in
one of three places: it sets keys of theirs, or it is what they do anyway, or it has no equivalent.
"""

from ppo_lib.run.exports import openrlhf, verl
from ppo_lib.run.exports.translation import Setting, Translation, as_script

__all__ = ["TARGETS", "Setting", "Translation", "as_script"]

TARGETS = {"openrlhf": openrlhf.translate, "verl": verl.translate}
