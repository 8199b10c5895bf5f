import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from pav_jax.problems.chain import Chain
from pav_jax.reporting import trace_page
from pav_jax.rollout import Rollout

HOSTILE = (
  "</script><script>window.hacked = 1</script><img src=x "
  "onerror='window.hacked = 1'><!-- <b>&amp;\"'${1}{{data}}\\u2028\u2028"
)


class Parsed(html.parser.HTMLParser):
  """Tags, attributes and texts of elements, as a browser would split them."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.texts = [], [], []
    self.inside = False
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *attr) for attr in attrs]
    self.texts.append("")
    self.inside = True

  def handle_endtag(self, tag):
    self.inside = False

  def handle_data(self, data):
    if self.inside:
      self.texts[-1] += data

  def text_of(self, tag, number=0):
    at = [i for i, t in enumerate(self.tags) if t == tag][number]
    return self.texts[at]

  @property
  def data(self):
    return json.loads(self.text_of("script"))


def parsed(path):
  return Parsed(path.read_text(encoding="utf-8"))


def small():
  """Two traces of one and two steps, of at most three."""
  return Rollout(
    tokens=np.array([[5, 6, 7, 8, 0, 0], [5, 7, 8, 9, 9, 8]]),
    logp=np.array([[0, 0, -0.5, -1.23456, 0, 0], [0, -1, -2, -3, -4, -5.0]]),
    prefix_len=np.array([[2, 4, 4, 4], [1, 3, 6, 6]]),
    outcome=np.array([1.0, 0.0], np.float32),
    problem_id=np.array([11, 4]),
    sample_id=np.array([0, 3]),
  )


VALUES = np.array([[0.25, 0.75, 0.75, 0.75], [0.5, 0.625, 0, 0]])


def test_the_page_holds_exactly_what_it_was_given(tmp_path):
  hidden = VALUES.copy()
  hidden[1, 1] = np.nan
  path = trace_page.write_page(
    tmp_path / "page.html",
    small(),
    lambda token: f"<{token}>",
    {"v": VALUES, "w": hidden},
    title="A & B",
    exact=VALUES / 3,
  )
  assert path == tmp_path / "page.html"
  assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
  page = parsed(path)
  assert page.text_of("title") == "A & B"
  assert page.data == {
    "title": "A & B",
    "names": ["v", "w", "exact"],
    "exact": 2,
    "threshold": 0.5,
    "num_steps": 3,
    # Padding is no part of it.
    "tokens": {str(i): f"<{i}>" for i in (5, 6, 7, 8, 9)},
    "traces": [
      {
        "problem_id": 11,
        "sample_id": 0,
        "outcome": 1,
        "prefix_len": [2, 4, 4, 4],
        "tokens": [5, 6, 7, 8],
        "logp": [0, 0, -0.5, -1.23],
        "values": [
          [0.25, 0.75, 0.75, 0.75],
          [0.25, 0.75, 0.75, 0.75],
          [0.0833333, 0.25, 0.25, 0.25],
        ],
        "pits": [-1, -1, -1],
      },
      {
        "problem_id": 4,
        "sample_id": 3,
        "outcome": 0,
        "prefix_len": [1, 3, 6, 6],
        "tokens": [5, 7, 8, 9, 9, 8],
        "logp": [0, -1, -2, -3, -4, -5],
        "values": [
          [0.5, 0.625, 0, 0],
          [0.5, None, 0, 0],
          [0.166667, 0.208333, 0, 0],
        ],
        # The exact values never reach 0.5.
        "pits": [1, 1, -1],
      },
    ],
  }


def test_pits_may_be_told_and_small_values_may_count_as_0(tmp_path):
  def pits(values, **how):
    path = trace_page.write_page(
      tmp_path / "page.html", small(), str, {"v": values}, title="", **how
    )
    return [trace["pits"][0] for trace in parsed(path).data["traces"]]

  low = np.maximum(VALUES, 0.01)
  assert pits(VALUES) == [-1, 1]
  assert pits(VALUES, high=0.7) == [-1, -1]
  assert pits(low) == [-1, -1]
  assert pits(low, zero=0.01) == [-1, 1]
  # More than 0, though float32 has no room for it.
  assert pits(np.maximum(VALUES, 1e-60)) == [-1, -1]
  assert pits(VALUES, pit=np.array([0, 2])) == [0, 2]


def test_rounding_may_put_values_a_little_outside(tmp_path):
  q = np.array([[0, 1 + 1e-9, 1, 1], [-1e-9, 0, 0, 0]])
  path = trace_page.write_page(
    tmp_path / "page.html", small(), str, {"v": q}, title=""
  )
  traces = parsed(path).data["traces"]
  assert [trace["values"][0] for trace in traces] == [[0, 1, 1, 1], [0] * 4]


def test_logp_is_left_out_where_no_policy_sampled(tmp_path):
  problem = Chain(horizon=3)
  rollout = problem.demonstrations(np.arange(2), np.arange(2))
  path = trace_page.write_page(
    tmp_path / "page.html",
    rollout,
    problem.vocabulary.token_text,
    {"exact": problem.teacher_values(rollout)},
    title="",
  )
  data = parsed(path).data
  assert data["exact"] is None
  for row, trace in enumerate(data["traces"]):
    assert trace["logp"] is None
    texts = [data["tokens"][str(token)] for token in trace["tokens"]]
    whole = rollout.tokens[row, : rollout.prefix_len[row, -1]]
    assert "".join(texts) == problem.vocabulary.decode(whole)


def hostile_page(folder):
  return trace_page.write_page(
    folder / "hostile.html",
    small(),
    lambda token: HOSTILE if token == 7 else f"\ud800{token}\n",
    {HOSTILE: VALUES, "half a character \ud83d": VALUES},
    title=HOSTILE,
    exact=VALUES,
  )


def test_text_cannot_leave_its_place(tmp_path):
  page = parsed(hostile_page(tmp_path))
  plain = parsed(
    trace_page.write_page(
      tmp_path / "plain.html",
      small(),
      str,
      {"v": VALUES, "w": VALUES},
      title="plain",
      exact=VALUES,
    )
  )
  assert page.tags == plain.tags and page.attributes == plain.attributes
  assert page.text_of("script", 1) == plain.text_of("script", 1)
  assert page.text_of("title") == HOSTILE
  data = page.data
  assert data["title"] == data["names"][0] == data["tokens"]["7"] == HOSTILE
  assert data["names"][1] == "half a character \ud83d"
  assert data["tokens"]["8"] == "\ud8008\n"


def test_the_page_stands_alone(tmp_path):
  path = trace_page.write_page(
    tmp_path / "page.html", small(), str, {"v": VALUES}, title="t"
  )
  page = parsed(path)
  names = {name for _, name, _ in page.attributes}
  assert not names & {"src", "href", "srcset", "action", "data", "style"}
  assert not [name for name in names if name.startswith("on")]
  assert not set(page.tags) & {"link", "img", "iframe", "object", "base"}
  style, script = page.text_of("style"), page.text_of("script", 1)
  assert not re.search(r"url\(|@import|@font-face", style)
  assert "http" not in path.read_text(encoding="utf-8").replace(
    "http-equiv", ""
  )
  assert not re.search(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function\(",
    script,
  )
  # Only the page's own script and style may run, by their hashes.
  policies = [
    v
    for t, n, v in page.attributes
    if t == "meta" and n == "content" and "-src" in v
  ]
  hashes = [
    base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    for text in (style, script)
  ]
  assert policies == [
    "default-src 'none'; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
  ]


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_script_has_no_syntax_error(tmp_path):
  path = trace_page.write_page(
    tmp_path / "page.html", small(), str, {"v": VALUES}, title="t"
  )
  script = tmp_path / "script.js"
  script.write_text(parsed(path).text_of("script", 1), encoding="utf-8")
  subprocess.run(["node", "--check", script], check=True)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  ("how", "message"),
  [
    ({"values": {}}, "values are empty, expected at least one"),
    ({"values": {"v": VALUES[:, :3]}}, r"values\['v'\] has shape \(2, 3\)"),
    ({"values": {"v": VALUES + 0.5}}, r"values\['v'\] hold 1.25, expected"),
    ({"exact": VALUES - 0.5}, r"values\['exact'\] hold -0.25, expected"),
    ({"values": {"exact": VALUES}, "exact": VALUES}, "names the exact ones"),
    ({"pit": np.array([0, 3])}, r"pit holds 3, expected -1 … 2"),
    ({"pit": np.array([0])}, r"pit has shape \(1,\)"),
    ({"token_text": lambda token: token}, r"token_text\(5\) is 5, expected a"),
    ({"outcome": np.array([0.5, 1])}, r"outcome is .*expected 0 and 1"),
    ({"prefix_len": np.array([[2, 1, 4, 4]] * 2)}, "prefix_len is not within"),
    ({"prefix_len": np.array([[2, 3, 4, 7]] * 2)}, "prefix_len is not within"),
    ({"logp": np.zeros((2, 5))}, r"logp has shape \(2, 5\)"),
    ({"problem_id": np.zeros(3, int)}, r"problem_id has shape \(3,\)"),
    ({"high": 2}, "high is 2; expected"),
  ],
)
def test_bad_input_is_refused_and_nothing_written(tmp_path, how, message):
  fields = vars(small()) | {k: v for k, v in how.items() if k in vars(small())}
  rest = {k: v for k, v in how.items() if k not in fields}
  arguments = {"token_text": str, "values": {"v": VALUES}, "title": "t"} | rest
  with pytest.raises(ValueError, match=message):
    trace_page.write_page(
      tmp_path / "page.html", Rollout(**fields), **arguments
    )
  assert not list(tmp_path.iterdir())


# What a person sees, in a browser.


def chain_page(folder):
  """Twelve traces of three problems, a blind verifier, and the truth."""
  problem = Chain(horizon=4, rho=0.2)
  ids = np.repeat(problem.problem_ids("test", 0, 3), 4)
  rollout = problem.demonstrations(ids, np.tile(np.arange(4), 3))
  exact = problem.teacher_values(rollout)
  blind = np.full_like(exact, 0.6)
  path = trace_page.write_page(
    folder / "chain.html",
    rollout,
    problem.vocabulary.token_text,
    {"blind": blind},
    title="chain",
    exact=exact,
    high=0.05,
  )
  return path, problem, rollout, exact


def in_order_given(page):
  """Leaves no trace open, and sorts them as they were given."""
  page.press("c")
  page.run("byId('sort').value = 'given'; arrange()")


def test_it_begins_with_the_trace_that_loses_most_and_says_where(
  tmp_path, open_page
):
  path, *_, exact = chain_page(tmp_path)
  drops = np.round(np.diff(exact), 5)
  trace, step = np.unravel_index(np.argmin(drops), drops.shape)
  with open_page(path) as page:
    # The verifier is blind and loses nothing, so the first trace is open.
    first = "document.querySelector('main > details')"
    assert page.run(f"{first}.open") is True
    assert page.run(f"{first}.querySelector('.told').textContent").startswith(
      "No step lowers the value; the answer is "
    )
    page.run("byId('shown').value = 1; draw()")
    page.press("c")
    page.run(f"{first}.querySelector('summary').click()")
    assert page.run(f"{first}.dataset.index") == str(trace)
    told = page.run(f"{first}.querySelector('.told').textContent")
    assert told.startswith(
      f"Step {step + 1} loses the most of all steps of all traces: exact falls "
    )
    assert "by exact," in page.run("byId('about').textContent")


def test_text_is_searched(tmp_path, open_page):
  path, problem, rollout, _ = chain_page(tmp_path)
  texts = [
    problem.vocabulary.decode(tokens[:end])
    for tokens, end in zip(
      rollout.tokens, rollout.prefix_len[:, -1], strict=True
    )
  ]
  wanted = texts[4].strip()[:12]
  keep = [i for i, text in enumerate(texts) if wanted in text]
  assert 0 < len(keep) < 12
  shown = (
    "[...document.querySelectorAll('main > details:not([hidden])')]"
    ".map(r => Number(r.dataset.index))"
  )
  with open_page(path) as page:
    in_order_given(page)
    page.press("/")
    assert page.run("document.activeElement.id") == "search"
    for key in wanted:
      page.press(key)
    assert page.run("byId('search').value") == wanted
    assert page.run(shown) == keep
    page.run("byId('search').value = 'no such text'; arrange()")
    assert page.run(shown) == []
    assert page.run("byId('none').hidden") is False
    assert page.problems == []


def test_a_person_sees_where_it_went_wrong(tmp_path, open_page):
  path, problem, rollout, exact = chain_page(tmp_path)
  data = parsed(path).data
  pits = np.array([trace["pits"][1] for trace in data["traces"]])
  correct = int(rollout.outcome.sum())
  assert (pits >= 0).any() and 0 < correct < 12  # the example shows something
  with open_page(path) as page:
    in_order_given(page)
    assert page.run("document.title") == "chain"
    rows = "document.querySelectorAll('main > details:not([hidden])')"
    assert page.run(f"{rows}.length") == 12
    assert page.run("byId('summary').textContent") == (
      f"12 of 12 traces · {correct} correct · {(pits >= 0).sum()} with a pit · "
      f"{12 - correct} where end and outcome disagree (threshold 0.5)"
    )

    # The upper band says what the verifier does, the lower the truth; a cell
    # for each prefix that exists, and the pit outlined.
    for row in range(12):
      cells = f"[...{rows}[{row}].querySelectorAll('.below > *')]"
      exists = page.run(f"{cells}.map(c => c.classList.contains('cell'))")
      grew = np.diff(rollout.prefix_len[row], prepend=-1) > 0
      assert exists == grew.tolist()
      pit = page.run(f"{cells}.findIndex(c => c.classList.contains('pit'))")
      assert pit == (pits[row] + 1 if pits[row] >= 0 else -1)
    band = f"{rows}[0].querySelector('.band')"
    steps = int((np.diff(rollout.prefix_len[0]) > 0).sum())
    assert page.run(f"{band}.textContent") == ".60" * (1 + steps)

    # Blue above, orange below the value of the bare problem, grey at it.
    below = f"{rows}[ROW].querySelectorAll('.below > *')[H]"
    colour = "getComputedStyle({}).backgroundColor"
    row = int(np.argmax(pits >= 0))

    def lightness_a_b(row, h):
      cell = below.replace("ROW", str(row)).replace("H", str(h))
      text = page.run(colour.format(cell))
      return [float(x) for x in re.findall(r"[-\d.]+(?:e-\d+)?", text)][:3]

    assert abs(lightness_a_b(row, 0)[2]) < 0.01
    dead = lightness_a_b(row, int(pits[row]) + 1)
    assert dead[2] > 0.05  # towards yellow and red
    good = int(np.argmax(rollout.outcome))
    last = int((np.diff(rollout.prefix_len[good]) > 0).sum())
    assert lightness_a_b(good, last)[2] < -0.05  # towards blue

    # A click opens the text, every step a row, its values beside it.
    page.run(f"{rows}[{row}].querySelector('summary').click()")
    table = f"[...{rows}[{row}].querySelectorAll('tbody tr')]"
    texts = page.run(f"{table}.map(r => r.querySelector('.text').textContent)")
    want = [
      problem.vocabulary.decode(rollout.tokens[row, start:end])
      for start, end in zip(
        [0, *rollout.prefix_len[row]], rollout.prefix_len[row], strict=False
      )
      if end > start
    ]
    assert texts == want
    shown = page.run(f"{table}.map(r => r.cells[4].textContent)")
    for text, q in zip(shown, exact[row], strict=False):
      assert abs(float(text) - q) <= 0.005
    assert page.run(f"{table}.findIndex(r => r.className === 'pit')") == (
      pits[row] + 1
    )
    tip = f"{table}[1].querySelector('.text i').title"
    token = rollout.tokens[row, rollout.prefix_len[row, 0]]
    assert page.run(tip) == f"token {problem.prompt_len} · id {token}"
    page.run(f"{rows}[{row}].querySelector('summary').click()")
    assert page.run(f"{rows}[{row}].querySelector('tbody')") is None

    assert page.problems == [] and page.requests == [path.resolve().as_uri()]


def test_keys_filters_and_orders(tmp_path, open_page):
  path, _, rollout, exact = chain_page(tmp_path)
  rows = "[...document.querySelectorAll('main > details:not([hidden])')]"

  with open_page(path) as page:
    in_order_given(page)

    def order():
      return page.run(f"{rows}.map(r => Number(r.dataset.index))")

    def choose(name, value):
      key = "checked" if isinstance(value, bool) else "value"
      page.run(
        f"byId('{name}').{key} = {json.dumps(value)};"
        f"byId('{name}').dispatchEvent(new Event('change'))"
      )

    # j and k move, Enter opens, and an open trace hands on to the next.
    current = f"{rows}.findIndex(r => r.classList.contains('current'))"
    opened = f"{rows}.flatMap((r, i) => r.open ? [i] : [])"
    for key, at, now_open in [
      ("j", 0, []),
      ("j", 1, []),
      ("Enter", 1, [1]),
      ("j", 2, [2]),
      ("j", 3, [3]),
      ("k", 2, [2]),
      ("Enter", 2, []),
      ("k", 1, []),
      ("k", 0, []),
      ("k", 0, []),
      ("o", 0, list(range(12))),
      ("c", 0, []),
    ]:
      page.press(key)
      assert (page.run(current), page.run(opened)) == (at, now_open), key

    correct = rollout.outcome == 1
    choose("outcome", "1")
    assert order() == np.flatnonzero(correct).tolist()
    choose("outcome", "0")
    assert order() == np.flatnonzero(~correct).tolist()
    choose("outcome", "")
    problem_id = int(rollout.problem_id[-1])
    choose("problem", str(problem_id))
    assert order() == [8, 9, 10, 11]
    choose("problem", "")
    choose("disagrees", True)  # the blind verifier expects all to be correct
    assert order() == np.flatnonzero(~correct).tolist()
    choose("shown", "1")  # the exact values expect what happens
    assert order() == []
    assert page.run("byId('none').hidden") is False
    choose("disagrees", False)
    choose("pit", True)
    pits = [trace["pits"][1] for trace in parsed(path).data["traces"]]
    assert order() == [i for i, pit in enumerate(pits) if pit >= 0]
    choose("pit", False)

    choose("sort", "end")
    assert order() == np.argsort(exact[:, -1], kind="stable").tolist()
    choose("sort", "drop")
    drops = np.round(np.diff(exact).min(-1), 5)
    assert order() == np.argsort(drops, kind="stable").tolist()

    # Advantages: no cell for the bare problem, and a scale of their own.
    page.press("a")
    cells = f"{rows}[0].querySelectorAll('.band > *')"
    assert page.run(f"{cells}[0].className") == ""
    assert page.run(f"{cells}[1].textContent[0]") in "+−0"
    assert "advantage" in page.run("byId('highest').textContent")
    page.press("t")
    page.press("j")
    page.press("Enter")
    about = "getComputedStyle(document.querySelector('.text i'), '::after')"
    row = int(page.run("state.current.dataset.index"))
    first = rollout.tokens[row, 0]
    assert page.run(f"{about}.content") == f'"{first}"'
    assert page.problems == []


def test_hostile_text_is_shown_and_does_nothing(tmp_path, open_page):
  path = hostile_page(tmp_path)
  with open_page(path) as page:
    page.press("o")
    assert page.run("document.title") == HOSTILE
    assert page.run("document.querySelector('h1').textContent") == HOSTILE
    token = "[...document.querySelectorAll('.text i')].map(i => i.textContent)"
    assert HOSTILE in page.run(token)
    assert page.run("document.querySelectorAll('img, main script').length") == 0
    assert page.run("window.hacked") is None
    assert page.problems == [] and page.requests == [path.resolve().as_uri()]
    # And if it had become markup, the policy would have stopped it.
    page.run(
      "document.body.append(Object.assign(document.createElement('script'),"
      "{textContent: 'window.hacked = 1'}))"
    )
    assert page.run("window.hacked") is None


def test_dark_and_print(tmp_path, open_page):
  path, *_ = chain_page(tmp_path)
  with open_page(path) as page:
    paper = "getComputedStyle(document.body).backgroundColor"
    light = {"name": "prefers-color-scheme", "value": "light"}
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    page.call("Emulation.setEmulatedMedia", features=[light])
    assert page.run(paper) == "rgb(255, 255, 255)"
    page.call("Emulation.setEmulatedMedia", features=[dark])
    assert page.run(paper) == "rgb(22, 24, 27)"
    # On paper it is light, and without controls.
    page.call("Emulation.setEmulatedMedia", media="print", features=[dark])
    assert page.run(paper) == "rgb(255, 255, 255)"
    controls = "getComputedStyle(byId('controls')).display"
    assert page.run(controls) == "none"
    assert page.problems == []
