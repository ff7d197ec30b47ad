"""The faults of a server, and a mining run in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.llm_server import KEY, MODEL, LlmServer
from tests.mining_case import (
    FREE,
)
from tests.train_command import as_from_a_terminal

TRANSPORT = [
    "429",
    "429 after",
    "500",
    "drop",
    "half",
    "broken body",
    "429 in 200",
    "words in 200",
    "number",
]


CONTENT = ["cut", "invented", "nonsense", "refusal", "whole but cut", "thinks on"]


def start(folder: Path, server: LlmServer, *arguments: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "c2srt.cluster.cli",
        "relations",
        "mine",
        f"work={folder}",
        f"url={server.url}",
        f"model={MODEL}",
        *FREE,
        *arguments,
    ]
    return subprocess.Popen(
        command,
        env={**os.environ, "OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1"},
        preexec_fn=as_from_a_terminal,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
