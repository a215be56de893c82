"""One table of what can be asked of an upscale: options, keywords and checks come from it."""

import inspect

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from linearsr.cli.app import app
from linearsr.pipeline import LinearSRPipeline
from linearsr.serving.schemas import UpscaleForm
from linearsr.settings import SETTINGS, Asked, Fit, TagRequest, check_setting


@pytest.mark.parametrize("command", ["upscale", "batch"])
def test_each_setting_is_an_option_a_keyword_and_a_field(command):
    options = {o.name: o for o in typer.main.get_command(app).get_command(None, command).params}
    keywords = inspect.signature(LinearSRPipeline.__call__).parameters
    for name, asked in SETTINGS.items():
        assert options[name].help == asked.help
        assert (asked.keyword or name) in keywords
        assert name == "seed" or (asked.keyword or name) in Asked.__annotations__
        assert UpscaleForm.model_fields[name].description == asked.help


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("scale", [1, 2.5, 8.0], [0.99, 8.01, "2", None, True, float("nan")]),
        ("steps", [0, 1000], [-1, 1.0, "4", False]),
        ("fidelity", [0, 0.5, 1], [-0.1, 1.1, float("inf")]),
        ("guidance_scale", [0, 1, 30.0], [-1, float("inf"), "1"]),
        ("color_fix", ["none", "wavelet"], ["sepia", 1]),
    ],
)
def test_values_are_checked(name, good, bad):
    for value in good:
        check_setting(name, value)
    for value in bad:
        with pytest.raises(ValueError, match=name.replace("_", " ")):
            check_setting(name, value)


def test_sizes_become_scales():
    assert not Fit()
    assert Fit(width=300).scale((100, 50)) == 3
    assert Fit(height=300).scale((100, 50)) == 6
    assert Fit(300, 100).scale((100, 50)) == 2
    assert Fit(megapixels=0.02).scale((100, 50)) == 2
    assert Fit(1920, None, 2.5).suffix() == "_1920w_2.5mp"
    for too_much in (Fit(width=801), Fit(width=99), Fit(megapixels=1)):
        with pytest.raises(ValueError, match="is 100x50 pixels"):
            too_much.scale((100, 50))


@pytest.mark.parametrize(
    ("tags", "words", "add"),
    [
        ("brick wall, ivy", ("brick wall", "ivy"), False),
        (["brick wall", "ivy"], ("brick wall", "ivy"), False),
        (("brick wall, ivy", "sky"), ("brick wall", "ivy", "sky"), False),
        ("+ivy", ("ivy",), True),
        (" + ivy, + moss, sky", ("ivy", "moss", "sky"), True),
        (["+ivy", "moss"], ("ivy", "moss"), True),
        ("+", (), True),
        ("", (), False),
        (" , ;", (), False),
        ([], (), False),
        ("c++", ("c++",), False),
    ],
)
def test_a_plus_before_the_first_adds(tags, words, add):
    assert TagRequest.parse(tags, use_tags=True) == (words, add)


def test_nothing_said_is_left_to_the_model():
    assert TagRequest.parse(None) == ((), False)
    assert TagRequest.parse(None, use_tags=True) == ((), True)


@given(st.text(alphabet=st.characters()))
def test_words_can_always_be_encoded(text):
    for word in TagRequest.parse(text).words:
        assert word == word.strip() != ""
        word.encode("utf-8")


@pytest.mark.parametrize("tags", [3, [1, 2], [None], b"sky"])
def test_what_is_no_text(tags):
    with pytest.raises(ValueError, match="tags must be a text"):
        TagRequest.parse(tags)
