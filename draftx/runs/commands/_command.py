"""The command `draftx`: the table of its subcommands."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ..._checks import check_whole
from ..._devices import split_cpu
from ..._hosts import are_several, join_hosts, said_once
from ..._mesh import check_divides, planned_mesh
from ..._signals import EXIT_CODES
from ..config import read_config, RunConfig, write_config
from ..training import summary, train
from ._card import card_command, CardOptions
from ._completion import print_completion
from ._convert import convert_command, ConvertOptions
from ._evaluate import evaluate_command, EvaluateOptions
from ._faults import explain
from ._fetch import fetch_command, FetchOptions
from ._lora import lora_command, LORA_COMMANDS
from ._push import push_command, PushOptions
from ._report import report_command, ReportOptions
from ._sample import sample_command, SampleOptions


class Command(NamedTuple):
    """Holds a subcommand: what runs it, what it does, and its options.

    `options` is the dataclass of them, or a dictionary of those of subcommands.
    """

    run: Callable[[list[str]], int]
    description: str
    options: Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code.

    **Arguments:**

    - `arguments`: Without the program's name; `None` is those of the process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has enough; what is left must not fail at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(), end="")
        return 0
    name, *rest = arguments
    if name == "--print-completion":
        return print_completion({n: c.options for n, c in _COMMANDS.items()}, rest)
    if name not in _COMMANDS:
        print(f"draftx: there is no command {name!r}.\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        return _COMMANDS[name].run(rest)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        # Nothing was under way that would be saved first.
        print(f"draftx {name}: interrupted.", file=sys.stderr)
        return EXIT_CODES[signal.SIGINT]
    except Exception as error:
        text = explain(error)
        if text is None:
            raise
        # A traceback would hide it.
        print(f"draftx {name}: {text}", file=sys.stderr)
        return 1


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {c.description}" for name, c in _COMMANDS.items()]
    return "\n".join(
        [
            "draftx: fine-tuning text-to-image models on differentiable rewards",
            "",
            *lines,
            "",
            "`draftx train --help` has the options of `train`, and so on; "
            "`draftx --print-completion bash` is what completes them.",
            "",
        ]
    )


def _train(arguments: list[str]) -> int:
    path = None
    if arguments and not arguments[0].startswith("-"):
        path, *arguments = arguments
    try:
        config = read_config(path, arguments)
    except SystemExit as end:
        late = [word for word in arguments if word.endswith(".toml")]
        if end.code and path is None and late:
            print(
                f"A configuration comes first: `draftx train {late[0]} ...`.",
                file=sys.stderr,
            )
        raise
    if config.distributed:
        # The processes of one machine would take its cores from one another.
        join_hosts(check_whole("host_timeout", config.host_timeout))
    elif config.mesh is not None:
        mesh = planned_mesh(config.mesh)
        # Before its devices are made, which takes long for very many.
        check_divides("train_batch_size", config.train_batch_size, mesh)
        split_cpu(config.train_batch_size, devices=mesh.size)
    else:
        split_cpu(config.train_batch_size)
    try:
        with said_once():
            return _run(config)
    except BaseException as error:
        if not are_several():
            raise
        # Others wait for this one: it must not wait for them.
        text = explain(error) or "".join(traceback.format_exception(error))
        print(f"draftx train: {text}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)


def _run(config: RunConfig) -> int:
    print(write_config(config))
    result = train(config)
    print(summary(result))
    if result.stopped is not None:
        print(f"ended early: {result.stopped}", file=sys.stderr)
    print(f"everything is in {config.output_dir}")
    return _CODES.get(result.stopped or "", 0)


_CODES: Final = {number.name: code for number, code in EXIT_CODES.items()}
_COMMANDS: Final[dict[str, Command]] = {
    "train": Command(_train, "trains an adapter: `train [run.toml]`", RunConfig),
    "sample": Command(sample_command, "draws images of prompts", SampleOptions),
    "evaluate": Command(
        evaluate_command,
        "measures a model and its adapter on held-out prompts",
        EvaluateOptions,
    ),
    "lora": Command(
        lora_command,
        "tells of adapters' files; converts, scales, mixes and merges them",
        LORA_COMMANDS,
    ),
    "convert": Command(
        convert_command,
        "writes a model as a folder or a single file: `convert IN OUT`",
        ConvertOptions,
    ),
    "fetch": Command(
        fetch_command,
        "downloads models and rewards ahead, and checks them",
        FetchOptions,
    ),
    "card": Command(card_command, "writes the model card of a run again", CardOptions),
    "report": Command(
        report_command,
        "writes a page about runs: `report RUN [RUN ...]`",
        ReportOptions,
    ),
    "push": Command(push_command, "uploads a run to the Hugging Face Hub", PushOptions),
}
