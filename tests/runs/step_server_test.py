import asyncio
import contextlib
import json
import socket
import threading
import time

import numpy as np
import pytest

from pav_jax.provers.public.step_joining import SeparatedSteps
from pav_jax.runs.step_requests import Limits, Served
from pav_jax.runs.step_server import Batcher, application
from pav_jax.testing.byte_tokens import ByteTokens

TOKENS = ByteTokens()
MARK = TOKENS.encode("\n")[0]


class Counting:
  """Scores a step by the sum of tokens up to its mark, modulo 100."""

  def __init__(self, seconds=0.0):
    self.calls, self.seconds = [], seconds

  def __call__(self, tokens, mark):
    self.calls.append(tokens.shape)
    time.sleep(self.seconds)
    if (tokens == 255).any():
      raise FloatingPointError("not a number")
    total = np.take_along_axis(
      np.cumsum(tokens, axis=1), np.maximum(mark, 0), axis=1
    )
    return (total % 100 / 100).astype(np.float32)


def served(scores):
  joining = SeparatedSteps()
  return Served(
    "tiny",
    scores,
    max_length=64,
    vocab_size=TOKENS.vocab_size,
    step_tokens=frozenset([MARK]),
    encode=TOKENS.encode,
    join=lambda problem, steps: joining(TOKENS, problem, steps),
  )


def expected(text):
  """Scores of the lines of a text."""
  ids = np.array(TOKENS.encode(text))
  return (np.cumsum(ids)[ids == MARK] % 100 / 100).tolist()


@contextlib.contextmanager
def serving(scores, **limits):
  """A server on the loopback, and `(method, path, body) -> status, answer`."""
  uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is needed")
  pytest.importorskip("starlette")
  app = application(served(scores), Limits(**limits))
  listening = socket.socket()
  listening.bind(("127.0.0.1", 0))
  config = uvicorn.Config(app, log_level="critical", lifespan="on")
  server = uvicorn.Server(config)
  thread = threading.Thread(
    target=server.run, kwargs={"sockets": [listening]}, daemon=True
  )
  thread.start()
  port = listening.getsockname()[1]

  async def ask(method, path, body=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content) if content else None

  try:
    while not server.started:
      time.sleep(0.01)
    yield ask, server
  finally:
    server.should_exit = True
    thread.join(timeout=30)
    assert not thread.is_alive()


def scores_of(answer):
  return [[good for _, good in one["data"]] for one in answer["data"]]


def test_answers_have_the_shape_of_vllms():
  with serving(Counting()) as (ask, _):
    text = "1+1?\nIt is 2.\n"
    status, answer = asyncio.run(
      ask("POST", "/pooling", {"model": "tiny", "input": text})
    )
    assert status == 200 and answer["object"] == "list"
    assert answer["id"].startswith("pool-") and answer["model"] == "tiny"
    number = len(TOKENS.encode(text))
    assert answer["usage"] == {"prompt_tokens": number, "total_tokens": number}
    (one,) = answer["data"]
    assert one["index"] == 0 and one["object"] == "pooling"
    np.testing.assert_allclose(np.sum(one["data"], axis=1), 1)
    np.testing.assert_allclose(scores_of(answer), [expected(text)], atol=1e-6)
    assert asyncio.run(ask("GET", "/health")) == (200, None)
    status, models = asyncio.run(ask("GET", "/v1/models"))
    assert models["data"][0]["id"] == "tiny"


def test_sequences_are_ids_texts_or_steps_to_be_joined():
  with serving(Counting()) as (ask, _):
    ids = TOKENS.encode("ab\ncd\n")
    steps = {"problem": "ab\n", "steps": ["cd"]}
    for one, marks, want in (
      (ids, None, expected("ab\ncd\n")),
      (ids, [2], expected("ab\n")),
      (steps, None, expected("ab\ncd\n")[1:]),
    ):
      for body, marked in ((one, marks), ([one], marks and [marks])):
        content = {"input": body} | ({"mark": marked} if marked else {})
        status, answer = asyncio.run(ask("POST", "/pooling", content))
        assert status == 200
        np.testing.assert_allclose(scores_of(answer), [want], atol=1e-6)


@pytest.mark.parametrize(
  "body, status, message",
  [
    (b"{", 400, "is no JSON"),
    (b"[1]", 400, "has no input"),
    ({"input": "a\n", "model": "other"}, 404, "expected 'tiny'"),
    ({"input": []}, 400, "input is empty"),
    ({"input": [True]}, 400, "input 0 has no token ids"),
    ({"input": ["a\n"] * 5}, 400, "has 5 sequences, expected at most 4"),
    ({"input": "a" * 65 + "\n"}, 400, "has 66 tokens, expected at most 64"),
    ({"input": [3, 999]}, 400, "has tokens 3 … 999, expected 0 … 258"),
    ({"input": "no step"}, 400, "or step tokens in it"),
    ({"input": [5, 6], "mark": [2]}, 400, "indices in 0 … 1"),
    ({"input": [[5], [6]], "mark": [[0]]}, 400, "expected a list for each"),
    ({"input": {"problem": "a", "steps": []}}, 400, "none of these empty"),
    ({"input": "x" * 5000}, 413, "has more than 4096 bytes"),
    ({"input": [255, MARK]}, 500, "FloatingPointError: not a number"),
  ],
)
def test_bad_requests_are_told_why(body, status, message, shared):
  got, answer = asyncio.run(shared("POST", "/pooling", body))
  assert got == status == answer["error"]["code"]
  assert message in answer["error"]["message"]


@pytest.fixture(scope="module")
def shared():
  with serving(Counting(), max_body=4096, max_sequences=4) as (ask, _):
    yield ask
    # It has gone on after all of them.
    status, _ = asyncio.run(ask("POST", "/pooling", {"input": "a\n"}))
    assert status == 200


def test_several_hundred_at_once_are_all_answered_in_few_calls():
  scores = Counting(0.002)
  texts = [f"{i}?\n{i}\n" for i in range(400)]

  async def everybody(ask):
    return await asyncio.gather(
      *(ask("POST", "/pooling", {"input": text}) for text in texts)
    )

  with serving(scores, rows_per_call=32, max_kept=100) as (ask, server):
    answers = asyncio.run(everybody(ask))
    batcher = server.config.app.state.batcher
    assert len(batcher._kept) == 100
  for (status, answer), text in zip(answers, texts, strict=True):
    assert status == 200
    np.testing.assert_allclose(scores_of(answer), [expected(text)], atol=1e-6)
  assert all(rows <= 32 for rows, _ in scores.calls)
  # 800 steps of 400 texts; how many wait at a time is up to the machine.
  assert len(scores.calls) < 200


def test_more_than_may_wait_is_told_to_come_again():
  async def crowd(ask):
    return await asyncio.gather(
      *(ask("POST", "/pooling", {"input": f"{i}\n"}) for i in range(60))
    )

  with serving(Counting(0.1), max_waiting=2, rows_per_call=1) as (ask, _):
    answers = asyncio.run(crowd(ask))
  busy = [answer for status, answer in answers if status == 503]
  assert busy and len(busy) < 60
  assert all("sequences wait" in answer["error"]["message"] for answer in busy)


def test_who_has_asked_is_answered_before_the_server_stops():
  async def ask_and_stop(ask, server):
    asked = asyncio.create_task(ask("POST", "/pooling", {"input": "a\n"}))
    await asyncio.sleep(0.15)  # of 0.4 that an answer takes
    server.should_exit = True
    return await asked

  with serving(Counting(0.4)) as (ask, server):
    status, answer = asyncio.run(ask_and_stop(ask, server))
  assert status == 200
  np.testing.assert_allclose(scores_of(answer), [expected("a\n")], atol=1e-6)


def batched(*requests, **limits):
  """Scores of requests that come at once, rows read, and calls."""
  scores = Counting()

  async def go():
    batcher = Batcher(served(scores), Limits(**limits))
    running = asyncio.create_task(batcher.run())
    out = []
    for together in requests:
      out.append(
        await asyncio.gather(
          *(
            batcher.score(np.array(TOKENS.encode(text), np.int32), marks)
            for text, marks in together
          )
        )
      )
    batcher.stop()
    await running
    return out, batcher.rows_read

  return *asyncio.run(go()), len(scores.calls)


def test_a_trace_that_grows_is_read_once_for_its_beginnings():
  grown = [("a\n", [1]), ("a\nb\n", [1, 3]), ("a\nb\nc\n", [1, 3, 5])]
  (scores,), rows, calls = batched(grown)
  want = expected("a\nb\nc\n")
  for h, of_one in enumerate(scores, 1):
    np.testing.assert_allclose(of_one, want[:h], atol=1e-6)
  assert rows == calls == 1
  # Later only what is new is read, and what has been asked before is not.
  scores, rows, _ = batched(grown[1:2], grown[:1], grown[2:], grown)
  assert rows == 2
  np.testing.assert_allclose(scores[3][2], want, atol=1e-6)
