"""trainer: one engine that trains a GPT, from a dry run on a laptop to many GPUs.

It imports nothing of the launcher and can be copied alone to a bare host. Four
modules are its doorway, free of torch, which the launcher may import too:
`config`, `manifest`, `sizing` and `schedule`.
"""

__version__ = "0.1.0"
