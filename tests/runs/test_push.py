"""A run on the hub: what is uploaded, and that a failure loses nothing.

The hub is a server of this machine, asked by the hub's own client.
"""

import base64
import contextlib
import http.server
import json
import threading

import huggingface_hub
import numpy as np
import PIL.Image
import pytest
from huggingface_hub import constants

import draftx
import draftx.runs.training._train as training
from draftx.io import ModelFileError
from draftx.runs import main, push, PushError, read_config, train
from draftx.runs.folder._folder import RunFolder


class Hub:
    """Keeps the files of each repository, and refuses at will."""

    def __init__(self):
        self.files, self.private, self.tokens = {}, {}, set()
        self.refused = None

    def answer(self, path, body):
        if self.refused is not None and self.refused in path:
            return 403, {"error": "Forbidden: this token may not write"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization") or "me"
            name = f"{owner}/{asked['name']}"
            self.files.setdefault(name, {})
            # As clients say it that are newer or older.
            private = asked.get("visibility") == "private" or asked.get("private")
            self.private.setdefault(name, bool(private))
            return 200, {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        _, _, _, owner, name, what, *_ = path.split("/")
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = [
                dict(path=f["path"], uploadMode="regular", shouldIgnore=False)
                for f in asked
            ]
            return 200, {"files": modes}
        assert what == "commit"
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.files[f"{owner}/{name}"][entry["value"]["path"]] = content
        address = f"{self.url}/{owner}/{name}/commit/abc"
        return 200, {"commitUrl": address, "commitOid": "abc", "pullRequestUrl": None}


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.add(self.headers.get("Authorization"))
            code, answer = hub.answer(self.path.partition("?")[0], body)
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *args):
            del format, args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def ended(run):
    """The folder of a run, with all that is in one."""
    folder = RunFolder(run)
    (run / "samples").mkdir()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "secret.npz").write_bytes(b"not to be uploaded")
    folder.card.write_text("---\nlicense: apache-2.0\n---\n\n# A fox\n")
    folder.versions.write_text("{}")
    folder.metrics.write_text("{}\n")
    for path in (folder.curves, *map(folder.samples, (0, 20, 9))):
        PIL.Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)
    return folder


_NAMES = [
    "README.md",
    "config.toml",
    "curves.png",
    "lora.safetensors",
    "lora_kohya.safetensors",
    "samples/step-00000020.png",
    "versions.json",
]


def test_adapter_card_and_last_picture_are_uploaded(hub, ended, capsys):
    flags = [str(ended.path), "--repo-id", "name/of", "--private", "--token", "hf_x"]
    assert main(["push", *flags]) == 0
    assert capsys.readouterr().out.strip() == f"{hub.url}/name/of"
    files = hub.files["name/of"]
    assert sorted(files) == _NAMES
    for name, content in files.items():
        assert content == (ended.path / name).read_bytes()
    assert hub.private == {"name/of": True}
    assert hub.tokens == {"Bearer hf_x"}
    # Once more, with what is there already; and without an account.
    push(ended.path, "name/of")
    assert push(ended.path, "fox") == f"{hub.url}/me/fox"
    assert sorted(hub.files["me/fox"]) == _NAMES
    assert hub.private["me/fox"] is False
    assert hub.tokens == {"Bearer hf_x", "Bearer hf_mine"}


@pytest.mark.parametrize("where", ["/api/repos/create", "/commit/"])
def test_what_the_hub_refuses_is_an_error_with_what_to_do(hub, ended, where, capsys):
    hub.refused = where
    before = sorted(p for p in ended.path.rglob("*"))
    flags = [str(ended.path), "--repo-id", "name/of", "--token", "hf_secret"]
    assert main(["push", *flags]) == 1
    error = capsys.readouterr().err
    assert f"draftx push {ended.path} --repo-id name/of` tries again" in error
    assert "hf_secret" not in error
    # The client keeps notes of its own of what is uploaded, in a cache.
    after = sorted(p for p in ended.path.rglob("*") if ".cache" not in p.parts)
    assert after == before
    hub.refused = None
    assert main(["push", *flags]) == 0


def test_without_a_connection_it_is_the_same_error(ended, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PushError, match="did not take .* tries again"):
        push(ended.path, "name/of", token="hf_x")


def test_bad_input_is_named_before_the_hub_is_asked(hub, ended, tmp_path):
    for name in ("a/b/c", "a b", "x--y", ""):
        with pytest.raises(ValueError, match="`repo_id` must be the name"):
            push(ended.path, name)
    with pytest.raises(ModelFileError, match="must be that of a run"):
        push(tmp_path / "none", "name/of")
    ended.lora.unlink()
    with pytest.raises(ValueError, match=r"has no lora.safetensors"):
        push(ended.path, "name/of")
    assert hub.files == {}


@pytest.fixture
def trained(run, short_pipeline, monkeypatch):
    """Trains what is trained already: the folder is that of a run all the same."""

    def finetune(pipeline, *args, callbacks, stopped=None, **options):
        row = {"step": 0, "reward": 1.0, "reward_std": 0.5}
        row |= {"skipped": 0, "seconds": 1.0}
        with contextlib.ExitStack() as ends:
            for callback in callbacks:
                callback.begin(1)
                ends.callback(callback.end)
            for callback in callbacks:
                callback(row, None)
        return draftx.FinetuneResult(pipeline, [row], [], None, stopped)

    class Samples:
        def __init__(self, folder, *args, **options):
            self.folder = folder

        def draw(self, pipeline, step, tell=None):
            path = self.folder.samples(step)
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)

        def begin(self, num_train_steps):
            del num_train_steps

        def __call__(self, row, pipeline):
            self.draw(pipeline, row["step"] + 1)

        def end(self):
            pass

    monkeypatch.setattr(training, "finetune", finetune)
    monkeypatch.setattr(training, "Samples", Samples)
    (run / "lora.safetensors").unlink()
    flags = ["--push-to-hub", "--max-train-steps", "1"]

    def call(*more, **changes):
        if changes:
            changed = lambda *args, **options: finetune(*args, **options, **changes)
            monkeypatch.setattr(training, "finetune", changed)
        return ["train", str(run / "config.toml"), *flags, *more]

    return call


def test_training_uploads_at_its_end(hub, trained, run):
    # Without a name it has that of the folder.
    assert main(trained()) == 0
    assert hub.private == {"me/run": False}
    arguments = trained("--hub-model-id", "name/fox", "--hub-private-repo")
    assert main(arguments) == 0
    assert hub.private == {"me/run": False, "name/fox": True}
    assert sorted(hub.files["name/fox"]) == sorted(
        [n for n in _NAMES if "samples" not in n] + ["samples/step-00000001.png"]
    )


def test_a_failed_upload_is_a_warning_and_loses_nothing(hub, trained, run):
    hub.refused = "/api/repos/create"
    flags = ["--hub-model-id", "name/fox", "--hub-private-repo"]
    with pytest.warns(UserWarning, match="`push_to_hub` failed") as warned:
        assert main(trained(*flags)) == 0
    (text,) = [str(w.message) for w in warned]
    again = f"draftx push {run} --repo-id name/fox --private"
    assert f"`{again}` tries again" in text
    hub.refused = None
    assert main(again.split()[1:]) == 0
    assert "lora.safetensors" in hub.files["name/fox"]


def test_a_run_that_a_signal_ended_uploads_nothing(hub, trained):
    assert main(trained(stopped="SIGTERM")) == 143
    assert hub.files == {}


def test_a_run_that_could_not_upload_is_not_begun(trained, run, monkeypatch, capsys):
    before = sorted(run.rglob("*"))
    assert main(trained("--hub-model-id", "a/b/c")) == 1
    assert "`hub_model_id` must be the name" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(trained("--hub-model-id", "name/fox")) == 1
    assert "HF_TOKEN" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_trackers_are_told_of_a_run(trained, run):
    tensorboard = pytest.importorskip("tensorboardX")
    del tensorboard
    config = read_config(run / "config.toml", ["--report-to", "tensorboard"])
    result = train(config)
    assert len(result.history) == 1
    (file,) = (run / "tensorboard").iterdir()
    data = file.read_bytes()
    assert b"reward_std" in data
    assert b"samples" in data
