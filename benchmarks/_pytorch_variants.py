"""The cases of `against_pytorch.py` in PyTorch: the ways there are of running them."""

import concurrent.futures
import dataclasses
from typing import Any

import numpy as np
import torch
from _cases import Case, Inputs, Setting
from _pytorch_chain import Options, Runner
from _pytorch_networks import Networks
from _timing import Variant


class Workers:
    """Several `Runner`s, each with a part of the batch and a thread on one core."""

    def __init__(self, setting: Setting, weights: dict, inputs: Inputs, options):
        n = options.workers
        part = dataclasses.replace(setting, batch=setting.batch // n)
        split = lambda x, axis: np.split(x, n, axis)
        parts = zip(
            *(split(x, 0) for x in (inputs.latents, inputs.negative, inputs.positive)),
            split(inputs.noises, 1),
            strict=True,
        )
        self.runners = []
        for inputs_part in parts:
            networks = Networks(part, weights, torch.float32, "cpu", options.layout)
            self.runners.append(Runner(part, Inputs(*inputs_part), options, networks))
        self.pool = concurrent.futures.ThreadPoolExecutor(
            n, initializer=torch.set_num_threads, initargs=(1,)
        )

    def __call__(self, case: Case) -> dict[str, Any]:
        outs = list(self.pool.map(lambda runner: runner(case), self.runners))
        joined: dict[str, Any] = {
            name: torch.cat([out[name] for out in outs])
            for name in outs[0]
            if name != "gradient"
        }
        if case.k:
            joined["gradient"] = {
                name: sum(out["gradient"][name] for out in outs) / len(outs)
                for name in outs[0]["gradient"]
            }
        return joined


def torch_runners(
    setting: Setting,
    weights: dict,
    inputs: Inputs,
    compile_mode: str,
    threads: int,
    gpu: bool,
) -> dict[str, Any]:
    """PyTorch's variants by name, the baseline first."""
    last, device = torch.channels_last, "cuda" if gpu else "cpu"
    plain = last if gpu else torch.contiguous_format
    options = {
        "eager": Options(layout=plain),
        "eager, checkpoint": Options(checkpoint=True, layout=plain),
        "AlignProp as published": Options(published=True, layout=plain),
        "tuned": Options(tuned=True, layout=plain),
        "tuned, checkpoint": Options(tuned=True, checkpoint=True, layout=plain),
    }
    if gpu:
        for name in ("flash", "cudnn"):
            options[f"tuned, {name}"] = Options(tuned=True, layout=plain, backend=name)
    else:
        options["tuned, channels last"] = Options(tuned=True, layout=last)
    if not gpu and threads > 1 and setting.batch % threads == 0:
        options[f"tuned, channels last, {threads} workers"] = Options(
            tuned=True, layout=last, workers=threads
        )
    if compile_mode != "off":
        compiled = Options(compiled=True, layout=last)
        options["compile"] = compiled
        tuned = dataclasses.replace(compiled, tuned=True)
        options["compile, tuned"] = tuned
        checkpointed = dataclasses.replace(tuned, checkpoint=True)
        options["compile, tuned, checkpoint"] = checkpointed
    dtype = getattr(torch, setting.dtype)
    networks: dict[Any, Networks] = {}
    runners: dict[str, Any] = {}
    for name, option in options.items():
        if option.workers > 1:
            runners[name] = Workers(setting, weights, inputs, option)
            continue
        if option.layout not in networks:
            networks[option.layout] = Networks(
                setting, weights, dtype, device, option.layout
            )
        runners[name] = Runner(
            setting,
            inputs,
            option,
            networks[option.layout],
            None if compile_mode == "default" else compile_mode,
        )
    return runners


def torch_variants(runners, case: Case, gpu: bool) -> list[Variant]:
    variants = []
    for name, runner in runners.items():
        published = name.startswith("AlignProp")
        if case.k == 0 and (published or "checkpoint" in name):
            continue  # Nothing is differentiated.
        if case.draws and published:
            continue  # It has no such method.

        def call(runner=runner):
            out = runner(case)
            if gpu:
                torch.cuda.synchronize()
            return out

        role = "apart" if published else "default" if name == "eager" else "variant"
        variants.append(Variant("PyTorch", name, call, role))
    return variants
