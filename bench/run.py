"""Every benchmark, one after the other; run it on a machine that does nothing else.

make bench
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("startup.py", "listing.py", "loading.py", "torch_speed.py", "jax_speed.py", "mlx_speed.py", "quantized.py")


def main() -> int:
    """Run them; the first that fails ends it."""
    folder = Path(__file__).resolve().parent
    for script in SCRIPTS:
        done = subprocess.run([sys.executable, str(folder / script)], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
