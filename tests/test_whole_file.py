"""A file that is written by rename: whole, or not there, and for everybody who may read its neighbours."""

import os

import pytest
import torch

from linearsr.runtime.checkpoints import save_weights
from linearsr.runtime.files import whole_file


def test_the_name_appears_when_it_is_complete(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with whole_file(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(TypeError), whole_file(file) as part:
        part.write_text(b"half")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "nowhere/a.txt"):
        pass


def test_weights_can_be_read_by_whom_the_folder_is_for(tmp_path):
    (tmp_path / "plain").touch()
    save_weights(tmp_path, {}, {"w": torch.zeros(2)})
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1
