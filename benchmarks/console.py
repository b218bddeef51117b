"""The console under load: frames of the page, and what it costs the server.

Publishes to many channels at a steady rate, from a process of its own, while Chromium shows each view.
"""

import argparse
import asyncio
import json
import shutil
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from tests.support.browser import ARGUMENTS

FRAMES = """(milliseconds) => new Promise((done) => {
  const frames = [], begin = performance.now();
  let before = begin;
  const frame = (now) => {
    frames.push(now - before);
    before = now;
    if (now - begin < milliseconds) requestAnimationFrame(frame);
    else done(frames.slice(1));
  };
  requestAnimationFrame(frame);
})"""

VIEWS = ("overview", "stream", "channels", "subscribers")


async def serve() -> tuple[asyncio.subprocess.Process, str]:
    """Start the server, and return it with its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sse_broadcast", "serve", "--port", "0", "--publish-rate", "0",
        "--log-level", "warning", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    return process, next(word.rstrip(",") for word in line.split() if word.startswith("http"))


def publish(url: str, *, channels: int, rate: int, seconds: float) -> None:
    """Publish batches at a steady rate, and print how many events they were."""
    count, per = 0, max(rate // 20, 1)
    begin = time.monotonic()
    while (now := time.monotonic()) - begin < seconds:
        batch = [
            {"channel": f"c.{(count + each) % channels}", "data": {"number": count + each, "text": "x" * 60}}
            for each in range(per)
        ]
        request = urllib.request.Request(
            f"{url}/send", data=json.dumps(batch).encode(), headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).read()
        count += per
        time.sleep(max(begin + count / rate - now - (time.monotonic() - now), 0))
    print(f"published {count / (time.monotonic() - begin):.0f} events/s")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def measure(page: Page, view: str, seconds: float) -> dict[str, Any]:
    """Return the frames of a view, in milliseconds."""
    await page.evaluate(f"void (location.hash = '{view}')")
    await asyncio.sleep(2)
    frames = sorted(await page.evaluate(FRAMES, seconds * 1000))
    return {
        "view": view,
        "frames/s": round(len(frames) / seconds, 1),
        "median": round(frames[len(frames) // 2], 1),
        "p99": round(frames[int(len(frames) * 0.99)], 1),
        "max": round(frames[-1], 1),
        "said": await page.evaluate("document.getElementById('sampled').textContent"),
    }


async def main(options: argparse.Namespace) -> int:
    """Print the figures, and return 1 if the page or the server fell behind."""
    server, url = await serve()
    whole = options.seconds * (len(VIEWS) + 1) + 20
    publisher = await asyncio.create_subprocess_exec(
        sys.executable, "-c",
        f"from benchmarks.console import publish; publish({url!r}, channels={options.channels},"
        f" rate={options.rate}, seconds={whole})",
    )  # fmt: skip
    try:
        await asyncio.sleep(3)
        before, began = cpu_seconds(server.pid), time.monotonic()
        await asyncio.sleep(options.seconds)
        alone = (cpu_seconds(server.pid) - before) / (time.monotonic() - began)
        async with async_playwright() as running:
            browser = await running.chromium.launch(
                executable_path=shutil.which("chromium"), args=list(ARGUMENTS)
            )
            page = await browser.new_page(viewport={"width": 1280, "height": 860})
            await page.goto(url)
            paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
            while not (first := await page.evaluate(paint)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            size = await page.evaluate("performance.getEntriesByType('navigation')[0].transferSize")
            print(f"first paint after {first:.0f} ms, {size} bytes transferred for the page")
            before, began = cpu_seconds(server.pid), time.monotonic()
            found = [await measure(page, view, options.seconds) for view in VIEWS]
            beside = (cpu_seconds(server.pid) - before) / (time.monotonic() - began)
            status = json.loads(
                await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/status").read())
            )
            for each in found:
                print(json.dumps(each))
            print(f"server: {alone:.0%} of a core alone, {beside:.0%} with the console")
            print(f"subscribers: {status['connected_clients']}, dropped: {status['dropped']}")
            print(f"resets: {status['resets']}, closed: {status['closed']}")
            await browser.close()
        good = all(each["frames/s"] >= options.least for each in found) and status["connected_clients"] == 1
        return 0 if good else 1
    finally:
        for process in (publisher, server):
            if process.returncode is None:
                process.terminate()
            await process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--least", type=float, default=20, help="frames a second that each view must have")
    sys.exit(asyncio.run(main(parser.parse_args())))
