"""Material that tests share: small networks, plans and programs, and where the checkout is."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
