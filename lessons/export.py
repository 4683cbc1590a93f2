"""The lessons as notebooks: the same cells, and what they print. Needs the extra `lessons`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from gpt.config import UserError
from lessons import chapters, common

FOLDER = chapters.HERE / "notebooks"


def write(lessons: Iterable[Path]) -> None:
    """Run the lessons and write `lessons/notebooks/*.ipynb`. UserError without the video's text."""
    if not common.corpus().is_the_videos:
        raise UserError("notebooks show the video's numbers, and need its text: tiny Shakespeare")
    FOLDER.mkdir(exist_ok=True)
    for path in lessons:
        print(path.name, "…", file=sys.stderr, flush=True)
        nbformat.write(executed(path), FOLDER / f"{path.stem}.ipynb")


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook of a lesson with its outputs, and nothing of the machine that ran it."""
    notebook = jupytext.read(path)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"  # jupytext draws them at random
        cell["metadata"] = {}
    resources = {"metadata": {"path": str(chapters.HERE.parent)}}
    client = NotebookClient(
        notebook, timeout=None, record_timing=False, coalesce_streams=True, resources=resources
    )
    client.execute()
    notebook.metadata.pop("language_info", None)  # names the version of Python
    for cell in notebook.cells:
        if cell.cell_type == "code":  # progress and warnings are not what the lesson shows
            cell["outputs"] = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook
