"""How Sphinx builds the site. `tools/build_site.py` calls it, and says which files it is made of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

import manyhands

if TYPE_CHECKING:
    from typing import Any

    from sphinx.application import Sphinx

project = "manyhands"
author = "the contributors to manyhands"
project_copyright = author
release = manyhands.__version__
version = ".".join(release.split(".")[:2])

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["_build"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# In docstrings, `compute` is a link where there is such a name, and code where there is not.
default_role = "py:obj"
add_module_names = False
python_display_short_literal_types = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what types are accepted, in words
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"manyhands {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "native"

OF_OURS = re.compile(r"(?:mh|manyhands)((?:\.(?!toml)\w+)+)(?:\(.*\))?$")


class LinkOurNames(SphinxTransform):
    """Turns code such as ``mh.compute`` into a link to the reference; a name that is not there is an error."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        """Do so for the page at hand."""
        for code in list(self.document.findall(nodes.literal)):
            found = OF_OURS.match(code.astext())
            if not found or isinstance(code.parent, (nodes.reference, nodes.title, addnodes.pending_xref)):
                continue
            link = addnodes.pending_xref(
                "",
                refdomain="py",
                reftype="obj",
                reftarget=f"manyhands{found[1]}",
                refexplicit=True,
                refwarn=True,
                refdoc=self.env.docname,
            )
            link.source, link.line = code.source, code.line or code.parent.line
            code.replace_self(link)
            link += code


def setup(app: Sphinx) -> dict[str, Any]:
    """Have the pages' code turned into links."""
    app.add_transform(LinkOurNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
