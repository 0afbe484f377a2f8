"""`make bench`: every benchmark of this folder that takes minutes, one after the other. README.md has the longer ones."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
for name in ("startup.py", "first_step.py", "tiny_task.py", "kernels.py"):
    print(f"--- {name}", flush=True)
    subprocess.run([sys.executable, str(HERE / name)], check=True)
