"""Load on a served model (docs/serving.md): requests for some seconds, errors, p50 and p99; a table and a JSON line.

    python benchmarks/rest_load.py http://127.0.0.1:5001 /tmp/champion/serving_input_example.json --seconds 30 --clients 2

Every client sends the file again as soon as it is answered. Exit code 1 when a request was not answered with predictions.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np


def client(url: str, body: bytes, seconds: float) -> tuple[list[float], list[str]]:
    """Milliseconds of every answer, and what was wrong with those that were no predictions."""
    took, wrong, until = [], [], time.perf_counter() + seconds
    with httpx.Client(timeout=60, headers={"Content-Type": "application/json"}) as http:
        while (started := time.perf_counter()) < until:
            try:
                answer = http.post(f"{url}/invocations", content=body)
                if not answer.is_success or "predictions" not in answer.json():
                    wrong.append(f"{answer.status_code} {answer.text[:200]}")
            except (httpx.HTTPError, ValueError) as error:
                wrong.append(f"{type(error).__name__}: {error}")
            took.append(1_000 * (time.perf_counter() - started))
    return took, wrong


def main() -> None:
    """Send the load, say what came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of `mlflow models serve`")
    parser.add_argument("body", type=Path, help="JSON of a request")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=2)
    asked = parser.parse_args()
    body, started = asked.body.read_bytes(), time.perf_counter()
    with ThreadPoolExecutor(asked.clients) as pool:
        found = [f.result() for f in [pool.submit(client, asked.url, body, asked.seconds) for _ in range(asked.clients)]]
    took, wrong = np.array([t for own, _ in found for t in own]), [w for _, own in found for w in own]
    seconds = time.perf_counter() - started
    p50, p99 = np.percentile(took, [50, 99])
    print(f"{len(took)} requests of {asked.clients} clients in {seconds:.1f} s: {len(took) / seconds:.0f} a second, "
          f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {len(wrong)} errors")
    print(json.dumps({"requests": len(took), "seconds": round(seconds, 1), "clients": asked.clients, "errors": len(wrong),
                      "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}))
    if wrong:
        print(f"the first error: {wrong[0]}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
