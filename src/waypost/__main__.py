"""`python -m waypost`, and the `waypost` command."""

from __future__ import annotations

from waypost.cli import main

if __name__ == "__main__":
    main()
