"""Links of the site: those that leave `docs/` become plain text, those of notebooks lead to pages of the site."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs on each page's text. There is no source tree in the site; where the code is read, links work."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def on_page_content(html: str, page: Any, **_: object) -> str:
    """Called by mkdocs on each page's HTML. Notebooks link to files, as they lie in the repository."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    html = re.sub(r'href="\.\./docs/([\w-]+)\.md', r'href="../\1.html', html)
    return re.sub(r'href="(\d-[\w-]+)\.ipynb"', r'href="\1.html"', html)
