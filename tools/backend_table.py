"""The table of docs/backends.md, made from certificates: ``python tools/backend_table.py`` after certifying.

polyllama certify torch --json docs/certificates/torch.json
python tools/backend_table.py            # writes the table
python tools/backend_table.py --check    # exit code 1 where the page is not what the certificates say
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyllama.testing import read_certificate

ROOT = Path(__file__).resolve().parent.parent
PAGE, CERTIFICATES = ROOT / "docs" / "backends.md", ROOT / "docs" / "certificates"
BEGIN, END = "<!-- certificates: begin -->", "<!-- certificates: end -->"
HEADERS = ("backend", "device", "dtype", "checks", "failed", "skipped", "largest error, of its bound", "with", "date")


def rows(certificate: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row per dtype."""
    versions = {**certificate["backend"]["versions"], "numpy": certificate["environment"]["numpy"]}
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    note = " ".join(certificate["environment"].get("note", "").split()).replace("|", "\\|")  # one cell of one line
    device = certificate["device"] + (f" ({note})" if note else "")
    found = []
    for dtype in certificate["dtypes"]:
        checks = [check for check in certificate["checks"] if check["dtype"] == dtype]
        failed = [check for check in checks if check["status"] == "failed"]
        skipped = sum(check["status"] == "skipped" for check in checks)
        measured = [c for c in checks if c["status"] == "passed" and c["bound"] > 0]
        closest = max(measured, key=lambda c: c["error"] / c["bound"], default=None)
        share = "" if closest is None else f"{closest['error'] / closest['bound']:.0%} ({closest['check']})"
        name = certificate["backend"]["name"]
        failures = ", ".join(check["check"] for check in failed) or "none"
        date = certificate["created"][:10]
        tried = f"{len(checks) - skipped}{' (thorough)' if certificate.get('thorough') else ''}"
        counts = tried, failures, str(skipped) if skipped else ""
        found.append((name, device, dtype, *counts, share, libraries, date))
    return found


def table(certificates: Sequence[dict[str, Any]]) -> str:
    """The certificates as a Markdown table."""
    lines = [f"| {' | '.join(HEADERS)} |", f"|{'---|' * len(HEADERS)}"]
    lines += [f"| {' | '.join(row)} |" for certificate in certificates for row in rows(certificate)]
    return "\n".join(lines)


def with_table(page: str, made: str) -> str:
    """The page with the table between its marks replaced."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no lines {BEGIN!r} and {END!r} to put the table between")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("certificates", nargs="*", type=Path, help="by default all of docs/certificates")
    parser.add_argument("--check", action="store_true", help="change nothing; say whether the page is up to date")
    given = parser.parse_args(arguments)
    files = given.certificates or sorted(CERTIFICATES.glob("*.json"), key=lambda file: file.stem)
    old = PAGE.read_text(encoding="utf-8")
    certificates = {file: read_certificate(file) for file in files}
    for file, certificate in certificates.items():
        if not certificate.get("complete"):
            raise SystemExit(f"{file} covers only a part: certify with neither --only nor --dtype")
    new = with_table(old, table(list(certificates.values())))
    if given.check:
        if new != old:
            print(f"{PAGE} is not what the certificates say: run python tools/backend_table.py", file=sys.stderr)
        return int(new != old)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
