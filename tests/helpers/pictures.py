"""Pictures of a page in a browser: pictures.py PAGE NAME light dark phone writes NAME-light.png and the others.

For README and docs; few colours, so that a picture stays below 300 KB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from browser import Browser
from PIL import Image

VIEWS = {"light": (1100, 1500, "light"), "dark": (1100, 1500, "dark"), "phone": (390, 1500, "dark")}


def main(page: Path, name: Path, views: list[str]) -> None:
    """Write one picture a view."""
    name.parent.mkdir(parents=True, exist_ok=True)
    browser = Browser()
    try:
        for view in views:
            width, height, theme = VIEWS[view]
            browser.open(page, width=width, height=height, theme=theme)
            path = name.with_name(f"{name.name}-{view}.png")
            browser.picture(path)
            Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1e3:.0f} KB")
    finally:
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
