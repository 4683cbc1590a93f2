"""`python -m gpt.report`: see `page`."""

from gpt.commands import cli
from gpt.report.page import main

if __name__ == "__main__":
    cli.run(main)
