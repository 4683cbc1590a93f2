"""The page that shows a run, and its model from inside: `python -m gpt.report`."""
