"""Send bad requests to a real `linearsr serve`. Each must be refused clearly; server and worker must survive.

    pip install schemathesis
    python benchmarks/fuzz_api.py --uploads 3000 --examples 200

First come forms with damaged images and random options, then requests that schemathesis generates from our
OpenAPI description. Counts the answers. Ends with status 1 after an answer of 500 or more, a traceback or a
replaced worker.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from served import Server

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "TGA", "ICO", "JPEG2000")
VALUES = (
    "",
    "0",
    "-1",
    "1",
    "4",
    "1e309",
    "nan",
    "x",
    "\0",
    "💥",
    "[]",
    "null",
    "true",
    "../../x",
    "a" * 2000,
)
FIELDS = (
    "scale",
    "steps",
    "fidelity",
    "tags",
    "guidance_scale",
    "seed",
    "color_fix",
    "format",
    "quality",
    "webhook",
    "other",
)
SAFE_CHECKS = (
    "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance,"
    "unsupported_method,negative_data_rejection"
)


def pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    files = []
    for file_format in FORMATS:
        file = BytesIO()
        Image.fromarray(pixels).save(file, file_format)
        files.append(file.getvalue())
    return files


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Damage a file at random: cut it off, change, repeat or remove bytes, or replace its beginning."""
    damage = rng.randrange(5)
    place = rng.randrange(len(data))
    if damage == 0:
        return data[:place]
    if damage == 1:
        return data[:place] + data[place + rng.randrange(1, 9) :]
    if damage == 2:
        return data[:place] + data[:place]
    if damage == 3:
        return rng.randbytes(rng.randrange(1, 9)) + data[rng.randrange(9) :]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def uploads(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield forms with a damaged image; every other has options, some of them nonsense."""
    rng, files = random.Random(seed), pictures()
    for number in range(count):
        fields = {name: rng.choice(VALUES) for name in rng.sample(FIELDS, rng.randrange(4) * (number % 2))}
        name = rng.choice(("photo.png", "../../x", "", "a\r\nb", "💥.jpg"))
        yield {
            "files": {"image": (name, damaged(rng.choice(files), rng))},
            "data": {**fields, "wait": "true"},
        }


async def send_uploads(server: Server, client: httpx.AsyncClient, count: int, seed: int) -> Counter[str]:
    """Send the forms from four clients, and count the answers of each kind."""
    answers: Counter[str] = Counter()
    forms = uploads(count, seed)

    async def sender() -> None:
        for form in forms:
            answer = await client.post("/v1/upscale", **form)
            kind = answer.headers["content-type"]
            if answer.status_code >= 400:
                said = answer.json()["error"]
                kind = said["code"]
                if "\n" in said["message"] or "Traceback" in said["message"]:
                    kind = f"not one line: {said['message']}"
            answers[f"{answer.status_code} {kind}"] += 1

    await asyncio.gather(*(sender() for _ in range(4)))
    return answers


def run_schemathesis(url: str, examples: int, seed: int) -> dict[str, Any]:
    """Run schemathesis; return its exit status and the number of requests."""
    command = ["run", f"{url}/openapi.json", "--checks", SAFE_CHECKS, "--max-examples", str(examples)]
    command += ["--seed", str(seed), "--continue-on-failure", "--request-timeout", "120"]
    # it would wait forever for events of jobs that nobody ends
    command += ["--exclude-path", "/v1/jobs/{job_id}/events"]
    program = Path(sys.executable).with_name("schemathesis")
    process = subprocess.run([program, *command], capture_output=True, text=True, check=False)
    Console(stderr=True).print(process.stdout[-6000:], markup=False, highlight=False)
    generated = re.search(r"(\d+) generated", process.stdout)
    return {"exit status": process.returncode, "requests": int(generated[1]) if generated else None}


async def fuzz(asked: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as data:
        server = Server(Path(data), asked.port, queue=64)
        await server.start()
        url = f"http://127.0.0.1:{asked.port}"
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            answers = await send_uploads(server, client, asked.uploads, asked.seed)
            described = (
                await asyncio.to_thread(run_schemathesis, url, asked.examples, asked.seed)
                if asked.examples
                else None
            )
            metrics = (await client.get("/metrics")).text
        by_status: Counter[str] = Counter()
        pattern = r'linearsr_requests_total\{method="\w+",route="[^"]*",status="(\d+)"\} (\d+)'
        for status, count in re.findall(pattern, metrics):
            by_status[status] += int(count)
        restarts = re.search(r"linearsr_worker_restarts (\d+)", metrics)
        said = await server.kill()
    return {
        "damaged uploads": asked.uploads,
        "answers to them": dict(answers.most_common()),
        "schemathesis": described,
        "requests by status": dict(sorted(by_status.items())),
        "refused requests": sum(count for status, count in by_status.items() if status >= "400"),
        "worker restarts": int(restarts[1]) if restarts else None,
        "tracebacks": said.count("Traceback"),
        "the server said": said[-500:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uploads", type=int, default=3000, help="damaged images")
    parser.add_argument(
        "--examples", type=int, default=200, help="of schemathesis, for each operation; 0: none"
    )
    parser.add_argument("--port", type=int, default=8766)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    report = asyncio.run(fuzz(asked))
    Console().print_json(json.dumps(report))
    server_errors = any(status >= "500" for status in report["requests by status"])
    sys.exit(1 if server_errors or report["tracebacks"] or report["worker restarts"] else 0)


if __name__ == "__main__":
    main()
