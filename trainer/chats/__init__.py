"""Conversations: read from any common format, turned into ids, and into what of them is learnt."""
