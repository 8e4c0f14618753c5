"""A hub id, with a network and without: told within seconds, in one line; what is cached is used."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from recbole_tslrec.language_model import hub
from recbole_tslrec.language_model.hub import why_unreachable
from recbole_tslrec.language_model.load import load_language_model
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.language_model.weights import check_weights

NOBODY = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture
def no_network(monkeypatch):
    """As on a machine whose user has set nothing, and whose network is down."""
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)


def test_without_a_network_it_is_told_at_once_and_in_one_line(no_network, monkeypatch, capfd):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # else huggingface_hub would not try
    start = time.monotonic()
    with pytest.raises(OSError, match=r"nobody/nothing.*not in this machine's cache") as caught:
        open_source("nobody/nothing")
    assert time.monotonic() - start < 10
    assert f"the hub [{NOBODY}] cannot be reached" in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.__suppress_context__
    assert "Retrying" not in capfd.readouterr().err


def test_an_offline_machine_is_not_asked_and_says_why():
    with pytest.raises(OSError, match="and HF_HUB_OFFLINE is set"):
        open_source("nobody/nothing")


@contextmanager
def serving(answer):
    """A server on this machine that answers HEAD and GET with what ``answer`` returns for a path.

    Yields:
        its address.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hub_that_answers_is_left_to_huggingface_hub(no_network, monkeypatch):
    with serving(lambda path: (403, {}, b"")) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert why_unreachable() is None
    assert why_unreachable() is not None
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    assert why_unreachable() is None


_REVISION = "0123456789abcdef0123456789abcdef01234567"
_DOWNLOAD = f"""
import json, torch
from huggingface_hub import constants
from recbole_tslrec.language_model.load import load_language_model
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.language_model.weights import check_weights
source = open_source("some/model")
check_weights(source)
constants.ENDPOINT = "{NOBODY}"  # from here on there is no network
again = open_source("some/model")
loaded = load_language_model(again, "none", torch.device("cpu")).loaded
print(json.dumps([source.identity, again.identity, again.local_files_only, loaded["tensors"]]))
"""


def test_a_model_is_downloaded_when_it_is_checked(language_model_folder, tmp_path):
    folder = Path(language_model_folder())

    def answer(path):
        *_, name = path.split("?")[0].split("/")
        if "/tree/" in path:  # which files there are besides
            return 200, {"Content-Type": "application/json"}, b"[]"
        if not (folder / name).is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _REVISION}, b""
        body = (folder / name).read_bytes()
        etag = hashlib.sha256(body).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": _REVISION}, body

    kept = {
        k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE" and "proxy" not in k.lower()
    }
    with serving(answer) as address:
        done = subprocess.run(
            [sys.executable, "-c", _DOWNLOAD],
            env=kept | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    identity = {"hub": "some/model", "revision": _REVISION}
    assert json.loads(done.stdout.splitlines()[-1]) == [identity, identity, True, 20]


def test_a_model_in_the_cache_is_used(no_network, tmp_path, monkeypatch, language_model_folder):
    """Its files as huggingface_hub lays them down; the fingerprint is of the revision."""
    cached = tmp_path / "hub" / "models--somebody--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(_REVISION)
    shutil.copytree(language_model_folder(), cached / "snapshots" / _REVISION)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = open_source("somebody/model")
    assert source.files_from == {"revision": _REVISION, "local_files_only": True}
    assert source.identity == {"hub": "somebody/model", "revision": _REVISION}
    check_weights(source)
    assert load_language_model(source, "none", torch.device("cpu")).loaded["tensors"] == 20
    (cached / "snapshots" / _REVISION / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter"):
        check_weights(source)
