"""Entry point of `python -m sse_broadcast`, the same as `sse-broadcast`."""

from sse_broadcast.cli import main

if __name__ == "__main__":
    main(prog_name="python -m sse_broadcast")
