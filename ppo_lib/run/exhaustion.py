"""What to do when a device is out of memory: it depends on what was being done there."""

import traceback

SAMPLED = (
    "while responses were sampled; lower batch or max_new_tokens, or set dtype to bfloat16 or merge_adapter to false"
)
ADVICE = {  # in which file of the library: what was done there, and the remedy. The innermost one counts.
    "sampling/decoding.py": SAMPLED,
    "sampling/rollout.py": SAMPLED,
    "models/loading.py": "while a model was loaded; take a smaller one, or set dtype to bfloat16",
    "run/judge_names.py": "while the judge was at work; take a smaller judge, or let other programs leave the device",
    "trainers/": "while the model was trained; lower microbatch, which gives the same result in less memory",
}
ELSEWHERE = "lower microbatch, which gives the same result in less memory"


def advice(error: BaseException) -> str:
    """Where the memory ran out, and what helps there.

    Args:
        error: as it was raised, with its traceback.
    """
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = frame.f_code.co_filename.replace("\\", "/").rpartition("/ppo_lib/")[2]
        for place, remedy in ADVICE.items():
            if name.startswith(place):
                return remedy
    return ELSEWHERE
