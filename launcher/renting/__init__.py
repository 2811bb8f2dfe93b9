"""Choosing a machine on a market, and trying the next one where the first does not do."""
