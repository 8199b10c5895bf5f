"""Drives a headless Chromium through its debugging pipe: no driver needed."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)

# The browser reads file descriptor 3 and writes 4.
_LAUNCH = (
  "import os, sys; r, w = map(int, sys.argv[1:3]); "
  "r, w = os.dup2(r, 10), os.dup2(w, 11); "
  "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Page:
  """A page that is open."""

  def __init__(self, to_browser, from_browser):
    self._to, self._from = to_browser, from_browser
    self._id, self._session = 0, None
    self.requests = []
    self.problems = []  # exceptions, console and security messages

  def call(self, method, **params):
    self._id += 1
    message = {"id": self._id, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    self._to.write(json.dumps(message).encode() + b"\0")
    self._to.flush()
    while True:
      answer = self._read()
      if answer.get("id") == self._id:
        assert "error" not in answer, answer
        return answer["result"]

  def _read(self):
    data = b""
    while not data.endswith(b"\0"):
      byte = self._from.read(1)
      assert byte, "the browser went away"
      data += byte
    message = json.loads(data[:-1])
    method = message.get("method")
    if method == "Network.requestWillBeSent":
      self.requests.append(message["params"]["request"]["url"])
    if method in (
      "Runtime.exceptionThrown",
      "Runtime.consoleAPICalled",
      "Log.entryAdded",
      "Page.javascriptDialogOpening",
    ):
      self.problems.append(message)
    return message

  def open(self, url):
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self.call(
      "Target.attachToTarget", targetId=target, flatten=True
    )["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")
    self.call("Page.navigate", url=url)
    while self._read().get("method") != "Page.loadEventFired":
      pass

  def run(self, expression):
    """The value of a JavaScript expression."""
    result = self.call(
      "Runtime.evaluate", expression=expression, returnByValue=True
    )
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")

  def press(self, key):
    for kind in ("keyDown", "keyUp"):
      text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
      text = text if kind == "keyDown" else ""
      self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text)


@pytest.fixture
def open_page(tmp_path_factory):
  """A context manager that opens a file in a browser."""
  if PATH is None:
    pytest.skip(f"no browser is installed; looked for {', '.join(NAMES)}")
  profile = tmp_path_factory.mktemp("browser")
  return lambda path: opened(path.resolve().as_uri(), profile)


@contextlib.contextmanager
def opened(url, profile, *, seconds=120):
  """The page at a URL, for a limited time."""
  read, their_write = os.pipe()
  their_read, write = os.pipe()
  process = subprocess.Popen(
    [
      *(sys.executable, "-c", _LAUNCH, str(their_read), str(their_write)),
      *(PATH, "--headless", "--no-sandbox", "--disable-gpu"),
      *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
      *("--disable-dev-shm-usage", "--window-size=1400,1000"),
    ],
    pass_fds=(their_read, their_write),
    stderr=subprocess.DEVNULL,
  )
  os.close(their_read)
  os.close(their_write)
  watchdog = threading.Timer(seconds, process.kill)
  watchdog.start()
  try:
    with open(write, "wb") as to_browser, open(read, "rb") as from_browser:
      page = Page(to_browser, from_browser)
      page.open(url)
      yield page
  finally:
    watchdog.cancel()
    process.terminate()
    process.wait(10)
