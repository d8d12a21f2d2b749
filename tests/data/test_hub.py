"""Data sets by name: a hub's client and a server of files in this process; nothing leaves it."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.data.hub import fetch_dataset
from tests.conftest import python_program, run_program
from tests.data.builders import make_picture, read_jsonl, write_jsonl

COMMIT = "0123456789abcdef0123456789abcdef01234567"
THYME = ("-m", "swift_thyme.commands.main")


class Hub(ThreadingHTTPServer):
    """Serves the files of one data set as Hugging Face does, and notes what was asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: Any) -> None:
        return

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        hub.asked.append(f"{self.command} {self.path}")
        prefix = f"/datasets/me/plates/resolve/{COMMIT}/"
        if self.path.startswith("/api/datasets/me/plates/revision/"):
            siblings = [{"rfilename": name} for name in hub.files]
            body = {"id": "me/plates", "sha": COMMIT, "siblings": siblings}
            self._send(json.dumps(body).encode(), "application/json")
        elif self.path.startswith("/api/datasets/me/plates/tree/"):
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": COMMIT}
                for name, data in hub.files.items()
            ]
            self._send(json.dumps(listed).encode(), "application/json")
        elif self.path.startswith(prefix) and self.path.removeprefix(prefix) in hub.files:
            self._send(hub.files[self.path.removeprefix(prefix)], "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", hashlib.sha256(body).hexdigest())
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    rows = [
        {"image": "a.jpg", "question": f"Which number is on plate {i}?", "answer": str(i)}
        for i in range(3)
    ]
    files = {
        "train.jsonl": write_jsonl(tmp_path / "train.jsonl", rows).read_bytes(),
        "a.jpg": make_picture(tmp_path).read_bytes(),
        "weights.bin": b"large",
    }
    with Hub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def test_a_name_at_hugging_face_becomes_rows_and_is_fetched_once(tmp_path: Path, hub: Hub) -> None:
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

    def convert(name: str, out: str) -> Any:
        command = (*THYME, "data", "rl", "--hub", name, "--out", str(tmp_path / out))
        return run_program(python_program(*command), **home)

    run = convert("hf::me/plates", "first")
    assert run.returncode == 0, run.stderr
    rows = read_jsonl(tmp_path / "first" / "train.rl.jsonl")
    assert [row["solution"] for row in rows] == ["0", "1", "2"]
    assert all(Path(image).is_file() for row in rows for image in row["images"])
    fetched = [line for line in hub.asked if line.startswith("GET /datasets")]
    assert len(fetched) == 2 and not any("weights" in line for line in fetched)
    again = convert("hf::me/plates@main", "second")
    assert again.returncode == 0, again.stderr
    assert [line for line in hub.asked if line.startswith("GET /datasets")] == fetched
    gone = convert("hf::me/gone", "third")
    assert gone.returncode == 1
    (line,) = gone.stderr.strip().splitlines()
    assert line.startswith("error: --hub hf::me/gone: cannot be fetched (RepositoryNotFoundError")
    assert not (tmp_path / "third").exists()


def modelscope(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> list[tuple[Any, ...]]:
    """Put a client of ModelScope in the place of the real one; return what it is asked for."""
    asked: list[tuple[Any, ...]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns[0]))
        return str(folder)

    client = SimpleNamespace(dataset_snapshot_download=download)
    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "modelscope.hub", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", client)
    monkeypatch.setitem(sys.modules, "modelscope.hub.utils", SimpleNamespace())
    endpoint = SimpleNamespace(get_endpoint=lambda: url)
    monkeypatch.setitem(sys.modules, "modelscope.hub.utils.utils", endpoint)
    return asked


def test_a_name_at_modelscope_is_asked_of_its_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: Hub
) -> None:
    asked = modelscope(monkeypatch, hub.url, tmp_path)
    assert fetch_dataset("ms::me/plates") == str(tmp_path)
    assert fetch_dataset("ms::me/plates@v1.0") == str(tmp_path)
    assert asked == [("me/plates", None, "*.parquet"), ("me/plates", "v1.0", "*.parquet")]


def test_without_a_network_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = modelscope(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(
        DataError, match=r"^--hub ms::me/plates: cannot be fetched \(ConnectError.*network"
    ):
        fetch_dataset("ms::me/plates")
    assert asked == []


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(SettingsError, match=r"--hub ms::me/plates: needs the package modelscope"):
        fetch_dataset("ms::me/plates")


@pytest.mark.parametrize("name", ["me/plates", "hf::", "gh::me/plates", "hf::a/b/c", "hf::../x"])
def test_a_name_without_its_hub_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"--hub .*write hf::NAME \(Hugging Face\) or ms::NAME"):
        fetch_dataset(name)
