"""What only one node needs lies on its own disk."""

import os
from pathlib import Path

import pytest

from c2srt import hints
from c2srt.cluster.session import on_a_node
from c2srt.node_folder import CACHES, compile_on_node, node_folder


@pytest.fixture
def node(monkeypatch, tmp_path) -> Path:
    """C2SRT_TMP, with none of the caches said."""
    for name in CACHES:
        monkeypatch.setenv(name, "for monkeypatch to put back")
        monkeypatch.delenv(name)
    monkeypatch.setenv("C2SRT_TMP", str(tmp_path / "node"))
    return tmp_path / "node"


def test_compiled_code_lies_where_only_its_user_writes_and_what_was_said_stays(node, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    compile_on_node()
    folder = node / f"c2srt-{os.getuid()}"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder / "inductor")
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(folder / "extensions")
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_is_left_alone(node):
    folder = node / f"c2srt-{os.getuid()}"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    compile_on_node()
    assert not set(CACHES) & set(os.environ)
    with pytest.raises(PermissionError, match="only this user"):
        node_folder()
    folder.rmdir()
    folder.symlink_to("/")
    with pytest.raises(PermissionError, match="only this user"):
        node_folder()


def test_a_task_on_a_node_compiles_there(node):
    """As Ray runs it: in whatever environment the node's Ray was started in."""
    with hints.running("shard"):
        task = on_a_node(hints.as_here(lambda item: os.environ["TRITON_CACHE_DIR"] + item))
    assert task("!") == f"{node}/c2srt-{os.getuid()}/triton!"
