"""Completions that a policy samples to learn from: prompts, sampling, tools, and the rows they become."""
