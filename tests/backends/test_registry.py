"""Which backend a configuration names."""

import subprocess
import sys
from pathlib import Path

from sse_broadcast.backends.memory.backend import MemoryBackend
from sse_broadcast.backends.registry import make_backend
from sse_broadcast.backends.tiered import TieredBackend
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config
from sse_broadcast.metrics import StoreMetrics


def test_memory_is_the_default() -> None:
    """It needs nothing, and says so."""
    config = Config()
    assert isinstance(
        make_backend(config, ChannelPolicies(config), len, metrics=StoreMetrics()), MemoryBackend
    )


async def test_a_file_is_opened_when_it_is_started(tmp_path: Path) -> None:
    """And not before: a program may make more than it serves."""
    path = tmp_path / "history.db"
    config = Config(backend=f"sqlite://{path}")
    backend = make_backend(config, ChannelPolicies(config), len, metrics=StoreMetrics())
    assert isinstance(backend, TieredBackend)
    assert (path.exists(), backend.outage) == (False, "the store is not open")
    await backend.start()
    assert (path.exists(), backend.outage) == (True, None)
    await backend.aclose()


def test_memory_needs_no_sqlite() -> None:
    """A Python may be built without it."""
    code = (
        "import sys; sys.modules['sqlite3'] = None\n"
        "from sse_broadcast.broadcaster import Broadcaster\n"
        "Broadcaster()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
