"""The worker process: one model on one device. It reads tasks on stdin and answers on stdout, in JSON lines.

Only this process decodes images of clients and loads torch. If it dies, the server goes on and starts another
one. When its stdin closes, the server is gone, and the worker ends at once.

Input: tasks, {"do": "upscale" or "tags", "id", "input", ...}, and {"cancel": id}.
Output: first {"event": "ready", "card": ...} or {"event": "unusable", "message"}; then for each task any
number of {"event": "step", "id", "step", "steps"}, with the "share" of the work done if it is known, and one
of {"event": "done", "id", ...}, {"event": "failed", "id", "message"} and {"event": "cancelled", "id"}.
"""

import errno
import json
import logging
import os
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from PIL import Image

from linearsr.jobs.messages import heard, one_line
from linearsr.jobs.names import Job
from linearsr.jobs.run import Watcher
from linearsr.jobs.upscaling import Upscaling, load_pipeline
from linearsr.serving.settings import DISK_FULL
from linearsr.settings import DType

if TYPE_CHECKING:
    from linearsr.pipeline import LinearSRPipeline

_log = logging.getLogger(__name__)
Message = dict[str, Any]


class Cancelled(Exception):
    """The current task was cancelled."""


class Worker(Watcher):
    """The loop of a worker process, which runs tasks one after the other and reports their progress."""

    _task: Message
    """The current task."""

    def __init__(self, pipeline: "LinearSRPipeline", answers: TextIO) -> None:
        self._pipeline, self._answers = pipeline, answers
        self._tasks: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cancelled: set[str] = set()

    def run(self, lines: TextIO) -> None:
        """Do the tasks in `lines`; the process exits where these end."""
        threading.Thread(target=self._listen, args=(lines,), daemon=True).start()
        say(self._answers, event="ready", card=card(self._pipeline))
        while True:
            answer = self.do(self._tasks.get())
            say(self._answers, id=self._task["id"], **answer)
            self._cancelled.discard(self._task["id"])

    def _listen(self, lines: TextIO) -> None:
        for line in lines:
            message = json.loads(line)
            if "cancel" in message:
                self._cancelled.add(message["cancel"])
            else:
                self._tasks.put(message)
        os._exit(0)

    def do(self, task: Message) -> Message:
        """Do a task, and return its last event: done, failed or cancelled."""
        self._task, self._percent = task, -1
        try:
            self._go_on()
            with heard() as notes:
                done = self._upscale(task) if task["do"] == "upscale" else self._tags(task)
        except Cancelled:
            return {"event": "cancelled"}
        except Exception as error:
            return {"event": "failed", "message": reason(error, task)}
        return {
            "event": "done",
            **done,
            "warnings": list(dict.fromkeys(plain(str(note.message), task) for note in notes)),
        }

    def _upscale(self, task: Message) -> Message:
        asked = Upscaling(task["options"], task["max_pixels"], task["quality"], overwrite=True)
        target = Path(task["output"])
        try:
            made = asked.upscale(self._pipeline, Job(Path(task["input"]), target), self)
            self._go_on()
        except Cancelled:
            target.unlink(missing_ok=True)
            raise
        width, height = made["size"]
        return {
            "output": {"width": width, "height": height, "bytes": target.stat().st_size},
            "tags": made["tags"],
            "unknown_tags": self._pipeline.unknown_tags(task["options"]["tags"]),
        }

    def _tags(self, task: Message) -> Message:
        from linearsr.images.convert import lr_tensor
        from linearsr.images.reading import read_image

        assert self._pipeline.tagger is not None
        picture = read_image(Path(task["input"]), max_pixels=task["max_pixels"])
        found = self._pipeline.tagger.tag(lr_tensor(picture)[0], **task["options"])
        return {"output": {"tags": [{"tag": name, "score": round(score, 4)} for name, score in found]}}

    def start_image(self, path: Path, steps: int | None = None) -> None:
        """Raise Cancelled if the task is cancelled."""
        self._go_on()

    def finish_step(self, step: int, steps: int) -> None:
        """Report a step."""
        self._go_on()
        say(self._answers, event="step", id=self._task["id"], step=step, steps=steps)

    def show_share(self, path: Path, doing: str, share: float) -> None:
        """Report every percent of an image that is processed in strips."""
        self._go_on()
        if (percent := int(100 * share)) > self._percent:
            self._percent = percent
            asked = self._pipeline.options(num_inference_steps=self._task["options"]["num_inference_steps"])
            far = {"steps": max(1, asked.steps), "step": int(max(1, asked.steps) * share)}
            say(self._answers, event="step", id=self._task["id"], **far, share=percent / 100)

    def _go_on(self) -> None:
        if self._task["id"] in self._cancelled:
            raise Cancelled


def reason(error: Exception, task: Message) -> str:
    """Return why a task failed, on one line."""
    from linearsr.runtime.devices import is_out_of_memory

    text = plain(str(error), task)
    if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    if is_out_of_memory(error):
        return "there is not enough memory for an image of this size: make it smaller"
    if isinstance(error, ValueError):
        return text
    # the message may reveal details of this machine, so it goes to the log and not to the client
    _log.error("job %s: %s: %s", task["id"], type(error).__name__, text)
    return f"the server could not process this image ({type(error).__name__})"


def plain(message: str, task: Message | None = None) -> str:
    """Return a message about an image or result on one line, without paths and options of this machine."""
    hints = {
        "<bytes>: ": "the image ",
        ", or raise the limit (max_pixels)": "",
        ", TIFF or another format that Pillow reads": " or TIFF",
    }
    if task is not None:
        hints[f"{task.get('input')}: "] = "the image "
    if task is not None and "output" in task:
        hints |= {f"{task['output']}: ": "the result ", f"{Path(task['output']).parent}: ": ""}
    for hint, words in hints.items():
        message = message.replace(hint, words)
    return " ".join(message.split())


def card(pipeline: "LinearSRPipeline") -> Message:
    """Return the description of the model that the server gives to clients."""
    from linearsr.guidance.tags import TagGuidance

    own, guidance = pipeline.config, pipeline.guidance
    return {
        "id": own.name,
        "scale": pipeline.scale,
        "steps": own.num_inference_steps,
        "min_steps": 1 if pipeline.trunk is None else 0,
        "max_steps": 0 if pipeline.transformer is None else sys.maxsize,
        **{name: getattr(own, name) for name in ("fidelity", "guidance_scale", "color_fix")},
        "guided": guidance is not None,
        "guided_by_tags": guidance is not None and guidance.uses_tags,
        "uses_tags": own.use_tags,
        "tagger": pipeline.tagger is not None,
        "vocabulary": list(guidance.config.vocabulary) if isinstance(guidance, TagGuidance) else None,
        "devices": [str(pipeline.device)],
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }


def say(answers: TextIO, **message: Any) -> None:
    """Send one message."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def main(model: str | None, device: str, dtype: DType) -> None:
    """Work until the server closes stdin."""
    Image.MAX_IMAGE_PIXELS = None  # each task has its own limit
    # redirect stdout to stderr, so that what a library prints cannot mix with the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        pipeline = load_pipeline(model, device, dtype, option="--device ")
    except Exception as error:
        say(answers, event="unusable", message=one_line(error))
        return
    Worker(pipeline, answers).run(sys.stdin)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
