"""How good a model is: loss on text, and multiple choice, for our checkpoints and for any transformers folder."""
