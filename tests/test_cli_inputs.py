"""Which files a command takes, and where their results go."""

import os
from pathlib import Path

import pytest
import typer

from linearsr.cli.inputs import find_sources, plan, split_results
from linearsr.cli.outputs import Format, output_place


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [
        "in/b.png",
        "in/a.JPG",
        "in/sub/deep/c.webp",
        "in/notes.txt",
        "in/.hidden.png",
        "in/.git/d.png",
    ]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    return tmp_path


def outputs(arguments: list[str], output: str | None = None, scale: float = 4.0) -> dict[str, str | None]:
    place = output_place(arguments, Path(output) if output else None, None)
    sources, _ = split_results(find_sources(arguments, place.folder))
    jobs = plan(sources, place.namer(scale))
    return {str(job.input): str(job.output) if job.output else job.error for job in jobs}


def test_folder_is_walked_without_hidden_files_and_other_types(tree):
    assert [str(source.path) for source in find_sources(["in"])] == [
        "in/a.JPG",
        "in/b.png",
        "in/sub/deep/c.webp",
    ]


def test_beside_the_input_with_the_scale_in_the_name(tree):
    assert outputs(["in/b.png"]) == {"in/b.png": "in/b_x4.png"}
    assert outputs(["in/b.png"], scale=2.5) == {"in/b.png": "in/b_x2.5.png"}


def test_tree_is_kept_under_the_output_folder(tree):
    assert outputs(["in"], "out") == {
        "in/a.JPG": "out/a.png",
        "in/b.png": "out/b.png",
        "in/sub/deep/c.webp": "out/sub/deep/c.png",
    }
    assert outputs(["in/**/*.webp"], "out") == {"in/sub/deep/c.webp": "out/sub/deep/c.png"}


def test_several_folders_keep_their_names(tree):
    Path("other").mkdir()
    Path("other/b.png").write_bytes(b"x")
    found = outputs(["in", "other"], "out")
    assert found["in/b.png"] == "out/in/b.png"
    assert found["other/b.png"] == "out/other/b.png"


def test_pattern_that_the_shell_left_is_expanded_and_a_file_of_that_name_comes_first(tree):
    assert outputs(["in/*.png"]) == {"in/b.png": "in/b_x4.png"}
    Path("in/[b].png").write_bytes(b"x")
    assert list(outputs(["in/[b].png"])) == ["in/[b].png"]
    assert outputs(["in/*.tiff"]) == {"in/*.tiff": "no image matches this pattern"}


def test_the_same_file_is_taken_once(tree):
    assert list(outputs(["in/b.png", "./in/../in/b.png", "in/*.png"])) == ["in/b.png"]


def test_one_stem_two_types_are_kept_apart(tree):
    Path("in/b.jpg").write_bytes(b"x")
    for output, expected in [
        (None, ("in/b_jpg_x4.png", "in/b_png_x4.png")),
        ("o", ("o/b_jpg.png", "o/b_png.png")),
    ]:
        found = outputs(["in"], output)
        assert (found["in/b.jpg"], found["in/b.png"]) == expected


def test_what_cannot_be_kept_apart_is_an_error(tree):
    Path("in/sub/b.png").write_bytes(b"x")
    found = outputs(["in/b.png", "in/sub/b.png"], "out")
    assert found["in/b.png"] == "out/b_png.png"
    assert "also that of in/b.png" in str(found["in/sub/b.png"])


def test_no_result_replaces_an_input(tree):
    found = outputs(["in"], "in")
    assert "would replace an input" in str(found["in/b.png"])
    assert found["in/a.JPG"] == "in/a.png"


def test_results_of_earlier_runs_are_no_inputs(tree):
    for name in ["b_x4.png", "b_x2.5.jpg", "a_JPG_x4.png", "holiday_x4.png"]:
        Path("in", name).write_bytes(b"x")
    expected = {"in/a.JPG", "in/b.png", "in/sub/deep/c.webp", "in/holiday_x4.png"}
    assert set(outputs(["in"])) == expected
    assert set(outputs(["in/*.png"])) == {"in/b.png", "in/holiday_x4.png"}, "a_JPG_x4.png belongs to a.JPG"
    assert set(outputs(["in/b.png", "in/b_x4.png"])) == {"in/b.png"}
    assert outputs(["in/b_x4.png"]) == {"in/b_x4.png": "in/b_x4_x4.png"}, "who names it alone wants it"


def test_output_folder_inside_the_input_is_not_searched(tree):
    Path("in/out").mkdir()
    Path("in/out/b.png").write_bytes(b"x")
    assert "in/out/b.png" not in outputs(["in"], "in/out")


def test_file_only_for_one_file(tree, capsys):
    assert outputs(["in/b.png"], "big.webp") == {"in/b.png": "big.webp"}
    Path("folder.png").mkdir()
    assert outputs(["in/b.png"], "folder.png") == {"in/b.png": "folder.png/b.png"}
    for arguments, output in [
        (["in"], "big.png"),
        (["in/b.png", "in/a.JPG"], "big.png"),
        (["in/b.png"], "big.bmp"),
    ]:
        with pytest.raises(typer.Exit) as stopped:
            output_place(arguments, Path(output), None)
        assert stopped.value.exit_code == 2
    with pytest.raises(typer.Exit):
        output_place(["in/b.png"], Path("big.png"), Format.jpg)
    with pytest.raises(typer.Exit):
        output_place(["in/b.png"], Path("in/notes.txt/out"), None)
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_what_shows_without_opening_is_said(tree):
    Path("empty.png").touch()
    os.mkfifo("pipe.png")
    os.symlink("nowhere.png", "broken.png")
    os.symlink("loop.png", "loop.png")
    Path("nothing").mkdir()
    names = ["empty.png", "pipe.png", "broken.png", "loop.png", "none.png", "nothing", "n" * 300 + ".png"]
    assert all(source.error for source in find_sources(names))
