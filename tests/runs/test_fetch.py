"""What is downloaded ahead: with a stand-in for the hub and its cache."""

import fnmatch
import hashlib
import types

import huggingface_hub
import pytest

from draftx.runs import main


MODEL = "some/model"
PICKSCORE, CLIP = "yuvalkirstain/PickScore_v1", "openai/clip-vit-large-patch14"


class _Hub:
    """Repositories as dictionaries of files, and a cache as the hub's: large files lie
    under their digests, with links to them."""

    def __init__(self, model, root):
        self.root, self.calls, self.is_there = root, [], True
        self.repos = {
            MODEL: {
                str(path.relative_to(model)): path.read_bytes()
                for path in model.rglob("*")
                if path.is_file()
            }
            | {"README.md": b"text", "unet/diffusion_pytorch_model.bin": b"pickle"},
            PICKSCORE: {"config.json": b"{}", "model.safetensors": b"x" * 3000},
            CLIP: {"vocab.json": b"{}", "merges.txt": b"m", "model.safetensors": b""},
        }

    def _check(self, call):
        self.calls.append(call)
        if not self.is_there:
            raise ConnectionError("no route to host\nlong explanation")

    def place(self, repo, name):
        return self.root / repo / "snapshot" / name

    def hf_hub_download(self, repo, name, *, repo_type=None, revision=None):
        path, data = self.place(repo, name), self.repos[repo][name]
        if not path.exists():
            self._check(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            blob = self.root / repo / hashlib.sha256(data).hexdigest()
            blob.write_bytes(data)
            path.symlink_to(blob)
        return str(path)

    def snapshot_download(self, repo, *, revision, allow_patterns):
        self._check(repo)
        for name in self.repos[repo]:
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                self.hf_hub_download(repo, name)
        return str(self.root / repo / "snapshot")

    def repo_info(self, api, repo, **how):
        self._check(f"sizes of {repo}")
        sizes = {name: len(data) for name, data in self.repos[repo].items()}
        of = [types.SimpleNamespace(rfilename=n, size=s) for n, s in sizes.items()]
        return types.SimpleNamespace(siblings=of)

    def try_to_load_from_cache(self, repo, name, **how):
        path = self.place(repo, name)
        return str(path) if path.exists() else None


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    made = _Hub(model, tmp_path)
    for name in ("hf_hub_download", "snapshot_download", "try_to_load_from_cache"):
        monkeypatch.setattr(huggingface_hub, name, getattr(made, name))
    asked = lambda api, *arguments, **how: made.repo_info(api, *arguments, **how)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", asked)
    return made


def test_what_is_used_is_downloaded_once_and_checked(hub, capsys):
    assert main(["fetch", "pickscore", MODEL, "tiny", "compressibility"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "tiny: comes with draftx"
    assert f"{PICKSCORE}: 3.002 kB in 2 files, here and checked" in out
    assert f"{CLIP}: 3 B in 2 files, here and checked" in out
    used = [n for n in hub.repos[MODEL] if not n.endswith((".md", ".bin"))]
    assert out[-1].endswith(f"in {len(used)} files, here and checked")
    assert all(hub.place(MODEL, name).exists() for name in used)
    assert not hub.place(MODEL, "README.md").exists()
    assert not hub.place(CLIP, "model.safetensors").exists()
    hub.is_there = False
    assert main(["fetch", "pickscore"]) == 0


def test_a_dry_run_tells_sizes_and_downloads_nothing(hub, capsys):
    assert main(["fetch", "--dry-run", "pickscore", MODEL]) == 0
    out = capsys.readouterr().out
    assert "3 kB  model.safetensors\n" in out
    assert "README" not in out
    assert "model.bin" not in out
    used = {n: d for n, d in hub.repos[MODEL].items() if not n.endswith((".md", "bin"))}
    assert all(f"  {name}\n" in out for name in used)
    total = (3005 + sum(map(len, used.values()))) / 1000
    assert out.endswith(f"to download: {total:.4g} kB\n")
    assert all(call.startswith("sizes of ") for call in hub.calls)
    main(["fetch", "pickscore"])
    capsys.readouterr()
    assert main(["fetch", "--dry-run", "pickscore"]) == 0
    assert capsys.readouterr().out.endswith("to download: 0 B\n")


def test_a_damaged_file_is_named(hub, capsys):
    assert main(["fetch", "pickscore", MODEL]) == 0
    for repo, name, flags in (
        (PICKSCORE, "model.safetensors", ["pickscore"]),
        (MODEL, "unet/diffusion_pytorch_model.safetensors", [MODEL]),
    ):
        capsys.readouterr()
        hub.place(repo, name).write_bytes(b"cut")
        assert main(["fetch", *flags]) == 1
        error = capsys.readouterr().err
        assert "must be the published file" in error
        assert f"`hf download {repo} " in error
        assert "--force-download` gets it again" in error


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_without_a_connection_there_is_one_line_with_the_command(hub, capsys, more):
    hub.is_there = False
    revision = "a4e4367c6dfa7288a00c550414478f865b875800"
    for name, command in (
        ("pickscore", f"`hf download {PICKSCORE} --revision {revision} config.json"),
        (MODEL, f"`hf download {MODEL} model_index.json "),
    ):
        assert main(["fetch", name, *more]) == 1
        error = capsys.readouterr().err
        assert "ConnectionError: no route to host)" in error
        assert command in error
        lines = error.splitlines()
        assert [line for line in lines if not line.endswith(" ...")] == lines[-1:]


def test_what_is_no_model_and_no_reward(hub, capsys):
    for flags, message in (
        ([], "`names` must name at least one reward or model"),
        (["pickscor"], "Did you mean 'pickscore'?"),
    ):
        assert main(["fetch", *flags]) == 1
        assert message in capsys.readouterr().err
    assert hub.calls == []
