"""What is in the wheel's metadata besides pyproject.toml: the README as strangers read it, and addresses.

The address of the repository is not in the source: `REVERIE_REPOSITORY=https://HOST/OWNER/NAME` gives it to the build
(`make release REPOSITORY=...`). With it, images and links of the README are absolute and the project has urls; without
it, images are left out, since a relative one is broken outside of the repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def readme(text: str, address: str) -> str:
    """README.md for a page elsewhere. address: of the repository, without / at its end, or ""."""
    if not address:
        return re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)", "", text)
    text = re.sub(r"(!\[[^\]]*\])\((?!https?:)([^)]*)\)", rf"\1({address}/raw/main/\2)", text)
    return re.sub(r"(?<!\!)(\[[^\]]*\])\((?!https?:|#)([^)]*)\)", rf"\1({address}/blob/main/\2)", text)


class CustomMetadataHook(MetadataHookInterface):
    """Called by hatchling."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set readme and urls."""
        address = os.environ.get("REVERIE_REPOSITORY", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": readme(text, address)}
        if address:
            metadata["urls"] = {
                "Homepage": address,
                "Documentation": f"{address}/tree/main/docs",
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
