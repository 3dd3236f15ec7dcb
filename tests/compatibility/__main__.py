from __future__ import annotations

import sys
from pathlib import Path

from tests.compatibility.table import page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "compatibility.md"

if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        print(page())
