"""What tests of the real commands share: what a mistake looks like, and where a run stands."""

import json
import time


def check_mistake(done, *expected):
    """One clear line on standard error, nothing else, status 2."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for text in expected:
        assert text in done.stderr


def wait_for_step(run, step, process):
    """Until the checkpoint of this step has been written."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            lines = (run / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if lines and json.loads(lines[-1])["step"] > step:  # the report after the one that saved it
            return
        time.sleep(0.005)
    raise AssertionError(process.communicate())
