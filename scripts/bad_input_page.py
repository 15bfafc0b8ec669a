"""Write docs/bad-input.md from the cases of tests/e2e/bad_input (`make docs`)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests/e2e/bad_input")]

from catalogue import page  # noqa: E402 (the cases lie beside the tests)

if __name__ == "__main__":
    (ROOT / "docs/bad-input.md").write_text(page())
