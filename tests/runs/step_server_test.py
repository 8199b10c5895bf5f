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
  """Scores a step by the sum of tokens up to its mark, modulo 100.

  What it keeps of a trace is the sums of its beginnings.
  """

  max_length, offset = 64, 0

  def __init__(self, seconds=0.0):
    self.calls, self.seconds = [], seconds
    self.forget()

  def forget(self):
    self.sums = np.zeros((32, self.max_length + 1), int)

  def scores(self, source, target, tokens, start, mark, *, room):
    self.calls.append(tokens.shape)
    time.sleep(self.seconds)
    if (tokens == 255).any():
      raise FloatingPointError("not a number")
    out, before = np.zeros(mark.shape, np.float32), self.sums.copy()
    for row in range(len(tokens)):
      if target[row] < len(before):
        new = before[source[row], start[row]] + np.cumsum(tokens[row])
        sums = before[source[row]].copy()
        end = min(start[row] + len(new), room)
        sums[start[row] + 1 : end + 1] = new[: end - start[row]]
        self.sums[target[row]] = sums
        out[row] = sums[mark[row] + 1] % 100 / 100
    return out


def served(reader):
  joining = SeparatedSteps()
  return Served(
    "tiny",
    reader,
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
    assert status == 200, answer
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


def batched(*requests):
  """Scores of requests, those of a list at once; tokens read; calls."""
  reader = Counting()

  def ids(of_one):
    return TOKENS.encode(of_one) if isinstance(of_one, str) else of_one

  async def go():
    batcher = Batcher(served(reader), Limits())
    running = asyncio.create_task(batcher.run())
    out, read = [], []
    for together in requests:
      before = batcher.tokens_read
      scores = await asyncio.gather(
        *(
          batcher.score(np.array(ids(text), np.int32), marks)
          for text, marks in together
        ),
        return_exceptions=True,
      )
      out.append(scores)
      read.append(batcher.tokens_read - before)
    batcher.stop()
    await running
    return out, read

  return *asyncio.run(go()), len(reader.calls)


def test_a_trace_that_grows_is_read_once():
  grown = [("a\n", [1]), ("a\nb\n", [1, 3]), ("a\nb\nc\n", [1, 3, 5])]
  (scores,), read, calls = batched(grown)
  want = expected("a\nb\nc\n")
  for h, of_one in enumerate(scores, 1):
    np.testing.assert_allclose(of_one, want[:h], atol=1e-6)
  assert read == [6] and calls == 1
  # Step by step only the new step is read, and what has been asked before is
  # not.
  scores, read, _ = batched(grown[:1], grown[1:2], grown[2:], grown)
  assert read == [2, 2, 2, 0]
  np.testing.assert_allclose(scores[3][2], want, atol=1e-6)


def test_steps_that_compete_are_read_behind_their_common_beginning():
  stem = [("abcdefgh\n", [8])]
  steps = [(f"abcdefgh\n{x}x\n", [11]) for x in "123"]
  later = [(f"abcdefgh\n{x}x\ny\n", [13]) for x in "123"]
  scores, read, _ = batched(stem, steps, later)
  assert read == [9, 9, 6]
  for asked, got in ((steps, scores[1]), (later, scores[2])):
    for (text, _), score in zip(asked, got, strict=True):
      np.testing.assert_allclose(score, expected(text)[-1:], atol=1e-6)


def test_an_index_that_was_not_asked_before_is_read_again():
  scores, read, _ = batched([("abcd\n", [4])], [("abcd\n", [2, 4])])
  assert read == [5, 3]
  ids = np.cumsum(TOKENS.encode("abcd\n"))
  np.testing.assert_allclose(scores[1][0], ids[[2, 4]] % 100 / 100, atol=1e-6)


def test_after_an_error_nothing_is_kept():
  good = [5, MARK]
  scores, read, _ = batched(
    [(good, [1])], [([5, MARK, 255], [2])], [([*good, 6, MARK], [3])]
  )
  assert isinstance(scores[1][0], FloatingPointError)
  assert read[2] == 4  # of which two had been read before the error
  np.testing.assert_allclose(
    scores[2][0], [(11 + 2 * MARK) % 100 / 100], atol=1e-6
  )


def test_as_many_sequences_are_kept_as_are_read_at_a_time():
  with pytest.raises(ValueError, match="kept_traces is 8, expected at least 9"):
    Limits(rows_per_call=9, kept_traces=8)
