"""A headless Chromium, driven through the DevTools protocol over a pipe: no driver, no port, no package.

`open_browser()` starts one with a profile of its own and ends it. A `Tab` goes to pages, runs JavaScript in them, presses
keys, takes screenshots, and remembers what the page has said on its console and which URLs it has asked for.
"""

import base64
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import tools

DEADLINE_SECONDS = 30
NAMES = ("chromium", "chromium-browser", "google-chrome")
# fmt: off
OPTIONS = [
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio",
    "--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--hide-scrollbars", "--font-render-hinting=none",
]
# fmt: on


@contextlib.contextmanager
def open_browser():
    """A browser without a window. It and its profile are gone afterwards."""
    profile = tempfile.mkdtemp(prefix="leveret-chromium-")
    requests, answers = os.pipe(), os.pipe()
    # Chromium reads its file descriptor 3 and writes to 4.
    shell = ["bash", "-c", f'exec "$@" 3<&{requests[0]} 4>&{answers[1]}', "chromium", tools.find(*NAMES, package="chromium"), *OPTIONS]
    process = subprocess.Popen(
        [*shell, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(requests[0], answers[1]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(requests[0])
    os.close(answers[1])
    browser = Browser(os.fdopen(requests[1], "wb", buffering=0), os.fdopen(answers[0], "rb"))
    try:
        yield browser
    finally:
        with contextlib.suppress(OSError, AssertionError):
            browser.call("Browser.close")
        end(process)
        browser.close()
        shutil.rmtree(profile, ignore_errors=True)


def end(process):
    """Waits for the browser, and kills its processes (it has a process group of its own) if it takes too long."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Browser:
    """The protocol: numbered calls, answers, and events of tabs."""

    def __init__(self, requests, answers):
        self.requests = requests
        self.answers = answers
        self.last = 0
        self.waiting = {}
        self.tabs = {}
        self.lock = threading.Lock()
        threading.Thread(target=self.read, daemon=True).start()

    def call(self, method, session=None, **params):
        """What the browser answers; fails with its error, or if it does not answer in time."""
        answer = queue.Queue()
        with self.lock:
            self.last += 1
            number = self.last
            self.waiting[number] = answer
            message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
            self.requests.write(json.dumps(message).encode() + b"\0")
        try:
            got = answer.get(timeout=DEADLINE_SECONDS)
        except queue.Empty:
            raise AssertionError(f"{method}: no answer within {DEADLINE_SECONDS} s") from None
        assert "error" not in got, f"{method}: {got['error']}"
        return got["result"]

    def open_tab(self, width=1280, height=900, is_phone=False):
        """A tab with cookies and storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self.tabs[session] = Tab(self, session, context)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height, is_phone)
        return tab

    def read(self):
        """Hands out what arrives, until the browser is gone."""
        buffer = b""
        with contextlib.suppress(OSError, ValueError):
            while chunk := self.answers.read1(1 << 20):
                *messages, buffer = (buffer + chunk).split(b"\0")
                for message in messages:
                    self.take(json.loads(message))

    def take(self, message):
        """An answer goes to its caller, an event to its tab."""
        if "id" in message:
            waiting = self.waiting.pop(message["id"], None)
            if waiting:
                waiting.put(message)
        elif tab := self.tabs.get(message.get("sessionId")):
            tab.take(message["method"], message["params"])

    def close(self):
        """Closes the pipe."""
        for end_ in (self.requests, self.answers):
            with contextlib.suppress(OSError):
                end_.close()


class Tab:
    """A page in the browser."""

    def __init__(self, browser, session, context):
        self.browser = browser
        self.session = session
        self.context = context
        self.problems = []
        self.requested = []

    def call(self, method, **params):
        """A call about this tab."""
        return self.browser.call(method, self.session, **params)

    def take(self, method, params):
        """Remembers errors, warnings and requests."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(each.get("value", each.get("description"))) for each in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])

    def resize(self, width, height, is_phone=False):
        """Another size of the window."""
        scale = 2 if is_phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    def prefer(self, **features):
        """What the user prefers: `prefer(**{"prefers-color-scheme": "dark"})`."""
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features.items()]
        )

    def go(self, url):
        """Loads a page."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """The value of a JavaScript expression, a promise's when it has one."""
        got = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in got, f"{script}: {got['exceptionDetails']}"
        return got["result"].get("value")

    def until(self, script, seconds=DEADLINE_SECONDS):
        """Waits until an expression is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                if self.run(f"Boolean({script})"):
                    return
            time.sleep(0.05)
        raise AssertionError(
            f"not within {seconds} s: {script}\nThe page shows:\n{self.run('document.body.innerText')}\n{self.problems}"
        )

    def wait_for(self, condition, seconds=DEADLINE_SECONDS):
        """Waits until a function gives something true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.05)

    def offline(self, is_offline):
        """Cuts the tab off from the network, or lets it back."""
        speeds = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=is_offline, **speeds)

    def choose_file(self, selector, path):
        """Puts a file into an input."""
        document = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def close(self):
        """Closes the tab, with all it has stored."""
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
        self.browser.tabs.pop(self.session)

    def press(self, key, code=None, text=None):
        """A key, pressed and released."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        common = {"key": key, "code": code or key, "windowsVirtualKeyCode": codes.get(key, 0)}
        text = "\r" if key == "Enter" else text
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path, is_whole=True):
        """A PNG of the page, or of what the window shows of it."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=is_whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
