from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["snapshot", "lines", "jsonl", "summary"])
def test_rich_is_not_imported_by(module: str) -> None:
    program = f"import sys, quaymirror.ui.{module}; sys.exit('rich' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
