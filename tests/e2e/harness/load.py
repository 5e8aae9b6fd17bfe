"""The load client (`examples/load`), which sends and receives segmented batches."""

import os
import pathlib
import subprocess

from .gateway import REPOSITORY
from .h3 import AUTHORITY


def client() -> pathlib.Path:
    """Returns the program, which `cargo build --release --example load` builds."""
    named = os.environ.get("RINGWAY_LOAD")
    return pathlib.Path(named) if named else REPOSITORY / "target/release/examples/load"


def run(gateway, path: str, upload: int = 0, requests: int = 1, streams: int = 1):
    """Sends requests over one connection, each with `upload` bytes. All must succeed."""
    command = [
        client(), "--connect", f"127.0.0.1:{gateway.port}", "--host", AUTHORITY, "--path", path,
        "--connections", 1, "--streams", streams, "--requests", requests, "--upload", upload,
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          timeout=150)
    assert done.returncode == 0, done.stderr
