"""Download of networks, from a hub that runs in the test."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from evenet_hep.errors import CheckpointError
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.hub import fetch, is_hub_name
from evenet_hep.schema import EventSchema

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves the files of one folder as the network owner/small, revision main."""

    folder: Path

    def do_HEAD(self) -> None:
        """Size and version of a file."""
        self.answer(with_content=False)

    def do_GET(self) -> None:
        """A file."""
        self.answer(with_content=True)

    def answer(self, *, with_content: bool) -> None:
        start, _, name = self.path.partition("/resolve/")
        revision, _, file = name.partition("/")
        problem = ""
        if start != "/owner/small":
            problem = "RepoNotFound"
        elif revision not in ("main", COMMIT):
            problem = "RevisionNotFound"
        elif not (self.folder / file).is_file():
            problem = "EntryNotFound"
        if problem:
            self.send_response(404)
            self.send_header("X-Error-Code", problem)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = (self.folder / file).read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "served"
    torch.manual_seed(0)
    EveNet(EveNetConfig.tiny(), EventSchema.standard(classes=("a", "b"))).save_pretrained(
        folder, card="A card."
    )
    handler = type("ServedHub", (Hub,), {"folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.ENDPOINT", address, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    yield folder
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def test_a_folder_comes_whole(hub: Path) -> None:
    folder = fetch("owner/small")
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in hub.iterdir())
    ours, served = EveNet.from_pretrained("owner/small"), EveNet.from_pretrained(hub)
    for name, tensor in served.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    assert EveNet.from_pretrained("owner/small", revision=COMMIT).schema == served.schema


def test_a_single_file_and_a_network_without_a_card(hub: Path) -> None:
    assert fetch("owner/small/schema.json").read_bytes() == (hub / "schema.json").read_bytes()
    (hub / "README.md").unlink()
    assert (fetch("owner/small") / "model.safetensors").is_file()


def test_what_is_not_there_is_named(hub: Path) -> None:
    assert hub.is_dir()
    with pytest.raises(CheckpointError, match="owner/other is neither a path on this machine nor a network"):
        fetch("owner/other")
    with pytest.raises(CheckpointError, match=r"owner/small has no file last\.ckpt"):
        fetch("owner/small/last.ckpt")
    with pytest.raises(CheckpointError, match="owner/small, revision v9 is neither"):
        fetch("owner/small", revision="v9")
    with pytest.raises(CheckpointError, match="is called owner/network"):
        fetch("small")


def test_without_a_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    with pytest.raises(CheckpointError, match=r"cannot (reach|fetch)"):
        fetch("owner/small")


def test_paths_are_no_names(tmp_path: Path) -> None:
    assert is_hub_name("owner/network")
    assert not is_hub_name(tmp_path)
    assert not is_hub_name("/no/such/folder")
    with pytest.raises(CheckpointError, match="there is no checkpoint folder"):
        EveNet.from_pretrained(tmp_path / "nothing")
