"""launcher: rents a host, starts a run, brings the checkpoints home.

It never imports torch. Of the trainer it knows the four doorway modules only:
`trainer.config`, `trainer.manifest`, `trainer.sizing` and `trainer.schedule`.
"""

__version__ = "0.1.0"
