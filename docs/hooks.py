"""In the site there is no source tree: links that leave `docs/` become plain text. They work where the code is read."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs on each page's text."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
