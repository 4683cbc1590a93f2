"""The examples in a page: `pycon` blocks, which go on from one to the next."""

import doctest
import re
import textwrap


def run_examples(page):
    """Run them; doctest's result, whose failures have been printed."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^( *)```pycon\n(.*?)^ *```", text, re.M | re.S)
    source = "\n".join(textwrap.dedent(block) for _, block in blocks)
    test = doctest.DocTestParser().get_doctest(source, {}, page.name, str(page), 0)
    return doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
