"""Hooks of mkdocs: the documents at the root become pages, and links to what is no page stay as words."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents that lie at the root of the repository."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links as they are on the site; a link to a file of the repository that is no page is its words alone."""
    source = {made: given for given, made in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def linked(found: re.Match[str]) -> str:
        mark, words, target, anchor = found.groups()
        if "://" in target or not target:
            return found[0]
        path = normpath(str(PurePosixPath(source).parent / target))
        path = PAGES.get(path, path.removeprefix("docs/"))
        known = files.get_file_from_path(path) is not None
        return f"{mark}[{words}]({path}{anchor or ''})" if known else words

    return _LINK.sub(linked, markdown)
