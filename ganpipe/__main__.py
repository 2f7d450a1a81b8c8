"""`python -m ganpipe`"""

from __future__ import annotations

from .cli import process

process()
