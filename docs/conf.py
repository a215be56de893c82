"""The documentation site: Sphinx with the theme Furo, pages in Markdown, the reference from docstrings.

Nothing is fetched when it is built or read: no fonts, scripts or counters from elsewhere.
Not mkdocs-material, since MkDocs 1 has had no release since 2024 and the theme ends in 2027; nor its successor
Zensical, an alpha.
"""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import stringify_annotation

from linearsr._version import __version__

project = "LinearSR"
author = "The LinearSR developers"
copyright = "The LinearSR developers, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"LinearSR {__version__}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

# Headings are links as on GitHub, so that a page's links work in both places.
myst_heading_anchors = 3

napoleon_numpy_docstring = False
add_module_names = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90

_CODE = re.compile(r"(`[^`]+`)")


def _prose(text: str) -> str:
    """As reStructuredText, of which only the code in single backticks is markup."""
    parts = _CODE.split(text)
    for i, part in enumerate(parts):
        code = re.sub(r"\s+", " ", part[1:-1])
        parts[i] = f"``{code}``\\ " if i % 2 else part.replace("|", r"\|").replace("*", r"\*")
    return "".join(parts)


def _docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    paragraphs = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).rstrip())
    # what is indented from its first line on is code, or a diagram
    text = [f"::\n\n{text}" if text.startswith("    ") else _prose(text) for text in paragraphs]
    if what == "class" and issubclass(thing, BaseModel):
        text.extend(_fields(thing))
    if what == "attribute":
        # a first line that prints nothing keeps napoleon from taking what stands before a colon for a type
        text[0] = f"\\ \n{text[0]}"
    lines[:] = "\n\n".join(text).split("\n")


def _fields(section: type[BaseModel]) -> Iterator[str]:
    """The settings of a section of a recipe: name, type, default, meaning."""
    meaning: dict[str, list[str]] = {}
    for parent in reversed(section.__mro__):
        if issubclass(parent, BaseModel):
            found = ModuleAnalyzer.for_module(parent.__module__)
            found.analyze()
            own = {key: text for (owner, key), text in found.attr_docs.items() if owner == parent.__name__}
            meaning.update(own)
    # get_type_hints takes the validators out; pydantic's base class has annotations that cannot be resolved, so not it
    annotations = {name: field.annotation for name, field in section.model_fields.items()}
    types = get_type_hints(SimpleNamespace(__annotations__=annotations))
    for name, field in section.model_fields.items():
        type_ = stringify_annotation(types[name], "smart").replace("~", "")
        short = re.sub(r"[a-z_]+\.(?=\w)", "", type_)
        yield f"* **{name}**: ``{short}``, {_default(field)}. {_prose(' '.join(meaning.get(name, [])))}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    return "with its defaults" if isinstance(value, BaseModel) else f"default ``{value!r}``"


def _signature(app: Any, what: str, name: str, thing: Any, *_: Any) -> tuple[str, str] | None:
    return ("", "") if what == "class" and issubclass(thing, BaseModel) else None


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _docstring, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", _signature)
