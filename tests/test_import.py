"""What `import draftx` brings along, which everyone waits for."""

import subprocess
import sys


_PROGRAM = """
import sys, draftx
late = ("draftx.distillation", "draftx.runs", "draftx.search", "draftx.judges")
late += ("draftx.rewards.zoo", "draftx.finetuning.rounds")
late += ("tyro", "matplotlib", "PIL", "huggingface_hub")
print([name for name in late if name in sys.modules])
print(draftx.runs.__name__, draftx.search.best_of_n.__name__, "runs" in dir(draftx))
print(draftx.rewards.LPIPS.__name__, draftx.io.read_clip.__name__)
print(draftx.DDPO.__name__, "DDPO" in dir(draftx), "DDPO" in dir(draftx.finetuning))
print({"LPIPS", "load", "zoo", "Reward"} <= set(dir(draftx.rewards)))
for module in (draftx.rewards, draftx.io):
    try:
        module.nothing
    except AttributeError as error:
        print(error)
try:
    draftx.run
except AttributeError as error:
    print(error)
"""


def test_packages_that_only_the_command_needs_are_not_imported():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "[]",
        "draftx.runs best_of_n True",
        "LPIPS read_clip",
        "DDPO True True",
        "True",
        "module 'draftx.rewards' has no attribute 'nothing'",
        "module 'draftx.io' has no attribute 'nothing'",
        "module 'draftx' has no attribute 'run'",
    ]
