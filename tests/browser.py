"""A browser without a window, driven over a pipe with Chromium's DevTools protocol.

https://chromedevtools.github.io/devtools-protocol: messages in JSON, each ended by a zero byte.
"""

import json
import os
import shutil
import subprocess
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"Tab": 9, "ArrowRight": 39}
executable = next(filter(None, map(shutil.which, NAMES)), None) if os.name == "posix" else None


class Browser:
    """`with Browser() as browser`: one page, and in `errors` whatever its console complained of."""

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = ["--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]
        flags += [f"--user-data-dir={self.profile.name}", "--disable-dev-shm-usage"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # it refuses root otherwise
        # Chromium reads file descriptor 3 and writes 4
        pipes = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'
        self.process = subprocess.Popen(
            ["sh", "-c", pipes, executable, *flags, "about:blank"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.session, self.count, self.errors, self.events = None, 0, [], set()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()
        self.profile.cleanup()

    def call(self, method, **parameters):
        """The result of a command of the protocol."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while (answer := self._receive()).get("id") != self.count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path):
        """Load a file, and wait until it has been."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self.events:
            self._receive()

    def run(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def hover(self, selector):
        """Move the mouse to the middle of the element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key):
        """Press a key, and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=KEYS[key])

    def _receive(self):
        message = bytearray()
        while (byte := self.process.stdout.read(1)) != b"\0":
            assert byte, "the browser has ended"
            message += byte
        answer = json.loads(message)
        method, details = answer.get("method"), answer.get("params", {})
        self.events.add(method)
        if (
            method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning"))
            or (method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"))
        ):
            self.errors.append(details)
        if method == "Network.requestWillBeSent" and details["request"]["url"].startswith("http"):
            self.errors.append(details["request"]["url"])
        return answer
