"""Is a gradient right? `autograd.gradcheck` for your own function, one command for all of ours:

    python -m tensorlib.gradcheck            every operation, layer and loss, the GPT, its training

Where to read: `numerical.py` measures slopes, `case.py` says what a case is, `cases.py` is the list
of them, `table.py` compares, and `__main__.py` is the command. Only the first is imported with
tensorlib.
"""

from .numerical import GradcheckError, gradcheck

__all__ = ["GradcheckError", "gradcheck"]
