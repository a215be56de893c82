"""Which files a command takes, and where their results go."""

import os
from pathlib import Path

import pytest

from linearsr.jobs.names import output_place, plan
from linearsr.jobs.sources import find_sources, mark_results, read_lists, split_results


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
    jobs = plan(sources, place.namer(f"_x{scale:g}"))
    return {str(job.input): str(job.output) if job.output else job.error for job in jobs}


def test_folder_is_walked_without_hidden_files_and_other_types(tree):
    assert [str(source.path) for source in find_sources(["in"])] == [
        "in/a.JPG",
        "in/b.png",
        "in/sub/deep/c.webp",
    ]


@pytest.mark.parametrize(
    ("arguments", "output", "expected"),
    [
        (["in/b.png"], None, {"in/b.png": "in/b_x4.png"}),
        (["in/b.png"], "big.webp", {"in/b.png": "big.webp"}),
        (["in/*.png"], None, {"in/b.png": "in/b_x4.png"}),
        (["in/b.png", "./in/../in/b.png", "in/*.png"], None, {"in/b.png": "in/b_x4.png"}),
        (["in/*.tiff"], None, {"in/*.tiff": "no image matches this pattern"}),
        (["in/**/*.webp"], "out", {"in/sub/deep/c.webp": "out/sub/deep/c.png"}),
        (
            ["in"],
            "out",
            {
                "in/a.JPG": "out/a.png",
                "in/b.png": "out/b.png",
                "in/sub/deep/c.webp": "out/sub/deep/c.png",
            },
        ),
    ],
)
def test_results_beside_the_inputs_or_in_their_tree(tree, arguments, output, expected):
    assert outputs(arguments, output) == expected


def test_the_scale_is_in_the_name(tree):
    assert outputs(["in/b.png"], scale=2.5) == {"in/b.png": "in/b_x2.5.png"}


def test_several_folders_keep_their_names(tree):
    Path("other").mkdir()
    Path("other/b.png").write_bytes(b"x")
    found = outputs(["in", "other"], "out")
    assert found["in/b.png"] == "out/in/b.png"
    assert found["other/b.png"] == "out/other/b.png"


def test_a_file_named_like_a_pattern_comes_first(tree):
    Path("in/[b].png").write_bytes(b"x")
    assert list(outputs(["in/[b].png"])) == ["in/[b].png"]


def test_one_stem_two_types_are_kept_apart(tree):
    Path("in/b.jpg").write_bytes(b"x")
    for output, expected in [
        (None, ("in/b_jpg_x4.png", "in/b_png_x4.png")),
        ("o", ("o/b_jpg.png", "o/b_png.png")),
    ]:
        found = outputs(["in"], output)
        assert (found["in/b.jpg"], found["in/b.png"]) == expected


def test_one_name_in_two_folders_keeps_these(tree):
    for name in ("a/p.jpg", "b/p.jpg", "b/c/p.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    assert outputs(["a/p.jpg", "b/p.jpg"], "out") == {"a/p.jpg": "out/a/p.png", "b/p.jpg": "out/b/p.png"}
    assert outputs(["a/p.jpg", "b/c/p.png"], "out") == {
        "a/p.jpg": "out/a/p.png",
        "b/c/p.png": "out/b/c/p.png",
    }
    assert outputs(["in/b.png", "in/sub"], "out")["in/b.png"] == "out/b.png"
    assert outputs(["a/p.jpg", "b/p.jpg"]) == {"a/p.jpg": "a/p_x4.png", "b/p.jpg": "b/p_x4.png"}


def test_what_cannot_be_kept_apart_is_an_error(tree):
    for name in ("c.png", "c.jpg", "c_jpg.png"):
        Path("in", name).write_bytes(b"x")
    found = outputs(["in"], "out")
    assert found["in/c.png"] == "out/c_png.png"
    assert found["in/c.jpg"] == "out/c_jpg.png"
    assert "also the result of in/c.jpg" in str(found["in/c_jpg.png"])


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


def test_file_only_for_one_file(tree):
    Path("folder.png").mkdir()
    assert outputs(["in/b.png"], "folder.png") == {"in/b.png": "folder.png/b.png"}
    for arguments, output, format, message in [
        (["in"], "big.png", None, "names a single image"),
        (["in/b.png", "in/a.JPG"], "big.png", None, "names a single image"),
        (["in/b.png"], "big.bmp", None, "cannot write .bmp"),
        (["in/b.png"], "big.png", "jpg", "does not match --format jpg"),
        (["in/b.png"], "in/notes.txt/out", None, "is a file, not a folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            output_place(arguments, Path(output), format)


def test_formats_and_suffixes(tree):
    def named(argument: str, output: str | None = None, **asked: str) -> str:
        place = output_place([argument], output and Path(output), asked.get("format"), asked.get("suffix"))
        (job,) = plan(find_sources([argument]), place.namer("_x4"))
        return str(job.output or job.error)

    assert named("in/b.png", format="jpeg") == "in/b_x4.jpg"
    assert named("in/a.JPG", format="same") == "in/a_x4.JPG"
    Path("in/c.jfif").write_bytes(b"x")
    assert named("in/c.jfif", format="same") == "in/c_x4.jfif"
    assert named("in/sub/deep/c.webp", "out", format="same") == "out/c.webp"
    assert named("in/notes.txt", format="same") == "in/notes_x4.png"
    assert named("in/b.png", "big.jpeg", format="jpg") == "big.jpeg"
    assert named("in/b.png", "big.webp", format="same") == "big.webp"
    assert named("in/b.png", suffix="_large") == "in/b_large.png"
    assert named("in/b.png", "out", suffix="_large") == "out/b_large.png"
    assert "would replace an input" in named("in/b.png", suffix="")
    for wrong in ("/x", "../x"):
        with pytest.raises(ValueError, match="not part of a file name"):
            named("in/b.png", suffix=wrong)
    with pytest.raises(ValueError, match="has no effect on"):
        named("in/b.png", "big.png", suffix="_x")


def test_names_with_line_breaks_and_results_of_other_sizes(tree):
    names = ("b\nc.png", "b\nc_x4.png", "b_1920w.jpg", "b_12.5mp.jpg", "b_large.png")
    for name in names:
        Path("in", name).write_bytes(b"x")
    inputs, results = split_results(find_sources(["in"]), "_large")
    assert [source.path.name for source in results] == ["b\nc_x4.png", *sorted(names[2:])]
    assert "in/b\nc.png" in [str(source.path) for source in inputs]


def test_a_folder_of_results_among_the_inputs_is_no_input(tree):
    arguments = ["in"]
    mark_results(Path("in/out"), arguments)
    Path("in/out/b.png").write_bytes(b"x")
    for again in (["in"], ["in/**/*.png"], ["in/*"]):
        inputs, results = split_results(find_sources(again, Path("in/out2")))
        assert not [source for source in inputs if "out" in source.path.parts]
        assert [str(source.path) for source in results] == ["in/out"]
    assert list(outputs(["in/out"], "other")) == ["in/out/b.png"], "who names it alone wants it"
    mark_results(Path("elsewhere"), arguments)
    mark_results(Path("in"), arguments)
    assert not Path("elsewhere").exists()
    assert not Path("in/.linearsr-results").exists()


@pytest.mark.parametrize(
    "arguments", [["in/*.*"], ["in/b.png", "in/a.JPG"], ["in/b.png", "in/out", "in/sub"]]
)
def test_an_output_folder_that_a_shell_finds_is_no_input(tree, arguments):
    Path("in/out").mkdir()
    found = outputs(arguments, "in/out")
    mark_results(Path("in/out"), arguments)
    Path("in/out/b.png").write_bytes(b"x")
    names = [arguments[0]] if "*" in arguments[0] else [*arguments, "in/out"]
    assert outputs(names, "in/out") == found, "the same command, resumed"
    assert "in/out/b.png" not in outputs([*names, "in/notes.txt"], "in/out2")


def test_a_single_file_leaves_no_mark(tree):
    mark_results(Path("out"), ["in/b.png"])
    mark_results(Path("in/out"), ["in/b.png"])
    assert not Path("out").exists()
    assert not Path("in/out").exists()


def test_a_list_of_names(tree):
    Path("list.txt").write_bytes(b"\xef\xbb\xbfin/b.png\r\n\nin/sub\n")
    assert read_lists(["@list.txt", "in/a.JPG"]) == ["in/b.png", "in/sub", "in/a.JPG"]
    Path("list0.txt").write_bytes(b"in/two\nlines.png\0in/b.png\0")
    assert read_lists(["@list0.txt"]) == ["in/two\nlines.png", "in/b.png"]
    Path("@me.png").write_bytes(b"x")
    assert read_lists(["@me.png"]) == ["@me.png"]
    with pytest.raises(ValueError, match=r"@none\.txt: the list cannot be read"):
        read_lists(["@none.txt"])


def test_what_shows_without_opening_is_said(tree):
    Path("empty.png").touch()
    os.mkfifo("pipe.png")
    os.symlink("nowhere.png", "broken.png")
    os.symlink("loop.png", "loop.png")
    Path("nothing").mkdir()
    names = ["empty.png", "pipe.png", "broken.png", "loop.png", "none.png", "nothing", "n" * 300 + ".png"]
    assert all(source.error for source in find_sources(names))
