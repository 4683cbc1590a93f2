"""Weights to start from: of our own runs, of GPT-2 as Hugging Face has it, of nanoGPT."""
