"""The video, chapter by chapter: `python -m lessons` lists them, `python -m lessons 7` runs one."""
