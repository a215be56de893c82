"""The documentation site: Sphinx with the theme Furo, pages in Markdown, the reference from docstrings.

Nothing is fetched when it is built or read: no fonts, scripts or counters from elsewhere.
"""

import re
from typing import Any

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


def _plain(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are prose with `code` in single backticks; nothing else in them is markup."""
    parts = _CODE.split("\n".join(lines))
    for i, part in enumerate(parts):
        code = re.sub(r"\s+", " ", part[1:-1])
        parts[i] = f"``{code}``\\ " if i % 2 else part.replace("|", r"\|").replace("*", r"\*")
    # A first line that prints nothing keeps napoleon from taking what stands before a colon for a type.
    lines[:] = ["\\ "] * (what == "attribute") + "".join(parts).split("\n")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _plain, priority=100)  # before napoleon
