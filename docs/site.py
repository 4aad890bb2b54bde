"""What the site has besides docs/: the README as its first page, and files outside of docs/ by their paths."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#\s]+)[^)\s]*\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the README as the page that a reader meets first."""
    from mkdocs.structure.files import File

    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=re.sub(r"\]\((?!http)([A-Z]\w+\.md)\)", r"](../\1)", text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Tell files outside of docs/ by their path in the repository, as they are no pages of the site."""
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)
