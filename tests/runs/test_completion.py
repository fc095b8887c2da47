"""What a shell completes, asked of a shell."""

import shutil
import subprocess
import sys

import pytest

from draftx.runs import main
from draftx.runs.commands._command import _COMMANDS


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """What is printed for bash."""
    path = tmp_path_factory.mktemp("completion") / "draftx.bash"
    command = [sys.executable, "-m", "draftx", "--print-completion", "bash"]
    path.write_text(subprocess.run(command, check=True, stdout=-1, text=True).stdout)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="asks bash")
def test_commands_options_and_values_are_completed(script):
    asked = {
        ("sa",): ["sample"],
        ("",): ["-h", "--help", *_COMMANDS],
        ("lora", ""): ["-h", "--help", "convert", "info", "merge", "mix", "scale"],
        ("convert", "--dt"): ["--dtype"],
        ("sample", "--sampling.gui"): ["--sampling.guidance-scale"],
        ("train", "--method.name", "drt"): ["drtune"],
    }
    text = f"source {script}\n"
    for words in asked:
        quoted = " ".join(f"'{word}'" for word in ("draftx", *words))
        text += f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; COMPREPLY=()\n"
        text += '_tyro_draftx; echo "${COMPREPLY[*]}"\n'
    out = subprocess.run(["bash", "-c", text], check=True, stdout=-1, text=True).stdout
    for words, line in zip(asked.values(), out.splitlines(), strict=True):
        assert set(line.split()) == set(words)


@pytest.mark.parametrize("arguments", [[], ["fish"], ["bash", "zsh"]])
def test_other_shells_are_named(arguments, capsys):
    assert main(["--print-completion", *arguments]) == 2
    assert "one of bash, zsh, tcsh; got" in capsys.readouterr().err
