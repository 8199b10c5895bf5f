"""Scores of steps over HTTP, in the shape of vLLM's pooling answers.

    POST /pooling   {"model": NAME, "input": …, "mark": …}
    GET  /health    200 while it can answer
    GET  /v1/models what is served

`input` is a sequence of token ids, a text, or `{"problem", "steps"}`, which is
joined as the model's authors join them; or a list of such. Scored are its step
tokens, as vLLM's pooling of steps does, or the indices in `mark`, a list for
each sequence. The answer's `data[i].data` has `[1 − score, score]` of each.

Requests that wait are read together, a sequence that begins another is read
with that one. Scores are kept, and so is what the model has read of the last
traces: of one that grows step by step a request reads the new step alone. The
web framework is the extra `serve`.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import hashlib
import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pav_jax import packages
from pav_jax.provers.public.reencoding import room_for
from pav_jax.runs.kept_traces import KeptTraces
from pav_jax.runs.step_requests import (
  Limits,
  RequestError,
  Served,
  parsed,
  sequences,
)


class _Job(NamedTuple):
  """A sequence that waits: its tokens, marks, and who wants the scores."""

  tokens: Int[np.ndarray, "T"]
  marks: list[int]
  scores: asyncio.Future


class Batcher:
  """Reads sequences of several requests together, in a thread of its own."""

  def __init__(self, served: Served, limits: Limits):
    """Takes the model, and how much may wait and be kept."""
    self._served, self._limits = served, limits
    self._waiting: collections.deque[_Job] = collections.deque()
    self._wakes = asyncio.Event()
    self._kept: collections.OrderedDict[bytes, float] = (
      collections.OrderedDict()
    )
    self._stopping = False
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._traces = KeptTraces(limits.kept_traces)
    self.tokens_read = 0

  async def score(
    self, tokens: Int[np.ndarray, "T"], marks: Sequence[int]
  ) -> list[float]:
    """Scores at some indices of a sequence.

    Raises:
      RequestError: with status 503, if too much waits.
    """
    scores = {}
    for mark in marks:
      name = _digest(tokens[: mark + 1])
      if name in self._kept:
        self._kept.move_to_end(name)
        scores[mark] = self._kept[name]
    lacking = [mark for mark in marks if mark not in scores]
    if lacking:
      if len(self._waiting) >= self._limits.max_waiting:
        raise RequestError(
          503, f"{len(self._waiting)} sequences wait, expected fewer: try again"
        )
      job = _Job(tokens, lacking, asyncio.get_running_loop().create_future())
      self._waiting.append(job)
      self._wakes.set()
      scores |= zip(lacking, await job.scores, strict=True)
    return [scores[mark] for mark in marks]

  def stop(self) -> None:
    """Lets `run` end when nothing waits any more."""
    self._stopping = True
    self._wakes.set()

  async def run(self) -> None:
    """Reads what waits, until `stop` is called and all is answered."""
    loop = asyncio.get_running_loop()
    while self._waiting or not self._stopping:
      await self._wakes.wait()
      jobs = [
        self._waiting.popleft()
        for _ in range(min(len(self._waiting), self._limits.rows_per_call))
      ]
      if not self._waiting and not self._stopping:
        self._wakes.clear()
      if jobs:
        await self._answer(loop, jobs)
    self._thread.shutdown()

  async def _answer(
    self, loop: asyncio.AbstractEventLoop, jobs: Sequence[_Job]
  ) -> None:
    try:
      results = await loop.run_in_executor(self._thread, self._read, jobs)
    except Exception as error:
      for job in jobs:
        if not job.scores.done():  # as of a client that has gone
          job.scores.set_exception(error)
      return
    for job, scores in zip(jobs, results, strict=True):
      for mark, score in zip(job.marks, scores, strict=True):
        self._keep(_digest(job.tokens[: mark + 1]), score)
      if not job.scores.done():
        job.scores.set_result(scores)

  def _read(self, jobs: Sequence[_Job]) -> list[list[float]]:
    """Scores of jobs; a sequence that begins another one is a part of it."""
    rows: list[tuple[Int[np.ndarray, "T"], dict[int, int]]] = []
    row_of = {}
    for number in sorted(range(len(jobs)), key=lambda i: -len(jobs[i].tokens)):
      job = jobs[number]
      row = next(
        (i for i, x in enumerate(rows) if _begins(x[0], job.tokens)), len(rows)
      )
      if row == len(rows):
        rows.append((job.tokens, {}))
      row_of[number] = row
      for mark in job.marks:
        rows[row][1].setdefault(mark, len(rows[row][1]))
    try:
      scores = self._read_rows([(x, list(marks)) for x, marks in rows])
    except Exception:
      self._traces.forget()
      self._served.reader.forget()
      raise
    return [
      [
        float(scores[row_of[number], rows[row_of[number]][1][mark]])
        for mark in job.marks
      ]
      for number, job in enumerate(jobs)
    ]

  def _read_rows(
    self, rows: Sequence[tuple[Int[np.ndarray, "_"], list[int]]]
  ) -> Float[np.ndarray, "B H"]:
    """Scores at the marks of sequences, in arrays of one of a few shapes."""
    reader = self._served.reader
    places = self._traces.place(
      [tokens for tokens, _ in rows],
      [min(marks) + reader.offset for _, marks in rows],
    )
    longest = max(len(tokens) for tokens, _ in rows)
    height = room_for(len(rows), least=1)
    width = room_for(
      max(len(x) - at.start for (x, _), at in zip(rows, places, strict=True))
    )
    depth = room_for(max(len(marks) for _, marks in rows), least=4)
    tokens = np.zeros((height, width), np.int32)
    mark = np.full((height, depth), -1, np.int32)
    source, start = np.zeros((2, height), np.int32)
    target = np.full(height, self._limits.kept_traces, np.int32)
    for row, ((of_row, marks), place) in enumerate(
      zip(rows, places, strict=True)
    ):
      new = of_row[place.start :]
      source[row], target[row], start[row] = place
      tokens[row, : len(new)] = new
      mark[row, : len(marks)] = marks
      self.tokens_read += len(new)
    room = min(room_for(longest), reader.max_length)
    return reader.scores(source, target, tokens, start, mark, room=room)

  def _keep(self, name: bytes, score: float) -> None:
    self._kept[name] = score
    while len(self._kept) > self._limits.max_kept:
      self._kept.popitem(last=False)


def _begins(whole: Int[np.ndarray, "T"], part: Int[np.ndarray, "S"]) -> bool:
  return np.array_equal(whole[: len(part)], part)


def _digest(tokens: Int[np.ndarray, "T"]) -> bytes:
  return hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()


def application(served: Served, limits: Limits | None = None) -> Any:
  """An ASGI application that scores steps.

  When it is shut down, what waits is answered first.

  Args:
    served: the model.
    limits: of memory; None for the defaults.

  Raises:
    packages.MissingPackageError: without starlette.
  """
  limits = limits or Limits()
  web = packages.require(
    "starlette.applications", package="starlette", purpose="serving"
  )
  responses = packages.require(
    "starlette.responses", package="starlette", purpose="serving"
  )
  routing = packages.require(
    "starlette.routing", package="starlette", purpose="serving"
  )

  @contextlib.asynccontextmanager
  async def lifespan(app):
    app.state.batcher = Batcher(served, limits)
    reading = asyncio.create_task(app.state.batcher.run())
    yield
    app.state.batcher.stop()
    await reading

  async def pooling(request):
    try:
      return responses.JSONResponse(await _answer(request, served, limits))
    except RequestError as error:
      status, message = error.status, str(error)
    except Exception as error:
      status, message = 500, f"{type(error).__name__}: {error}"
    content = {"message": message, "type": _TYPES[status], "code": status}
    headers = {"Retry-After": "1"} if status == 503 else None
    return responses.JSONResponse(
      {"error": content}, status_code=status, headers=headers
    )

  async def health(request):
    del request
    return responses.Response()

  async def models(request):
    del request
    model = {"id": served.name, "object": "model", "owned_by": "pav_jax"}
    model["max_model_len"] = served.reader.max_length
    return responses.JSONResponse({"object": "list", "data": [model]})

  return web.Starlette(
    routes=[
      routing.Route("/pooling", pooling, methods=["POST"]),
      routing.Route("/health", health),
      routing.Route("/v1/models", models),
    ],
    lifespan=lifespan,
  )


_TYPES = {
  400: "BadRequestError",
  404: "NotFoundError",
  413: "RequestTooLargeError",
  500: "InternalServerError",
  503: "ServiceUnavailableError",
}


async def _answer(
  request: Any, served: Served, limits: Limits
) -> dict[str, Any]:
  """The answer to a request.

  Raises:
    RequestError: if there is none.
  """
  content = parsed(await _body(request, limits.max_body))
  model = content.get("model", served.name)
  if model != served.name:
    raise RequestError(
      404, f"model is {model!r}, expected {served.name!r}, which is served"
    )
  asked = sequences(content, served, limits)
  batcher = request.app.state.batcher
  scores = await asyncio.gather(
    *(batcher.score(tokens, marks) for tokens, marks in asked)
  )
  number = sum(len(tokens) for tokens, _ in asked)
  return {
    "id": f"pool-{uuid.uuid4().hex}",
    "object": "list",
    "created": int(time.time()),
    "model": served.name,
    "data": [
      {"index": i, "object": "pooling", "data": [[1 - x, x] for x in of_one]}
      for i, of_one in enumerate(scores)
    ],
    "usage": {"prompt_tokens": number, "total_tokens": number},
  }


async def _body(request: Any, most: int) -> bytes:
  """The body; no more than `most` bytes of it are held."""
  parts, size = [], 0
  async for part in request.stream():
    size += len(part)
    if size > most:
      raise RequestError(
        413, f"the request has more than {most} bytes, expected at most so many"
      )
    parts.append(part)
  return b"".join(parts)
