"""Checkpoints whose parts lie on several nodes: one listing of all of them, and what of a part is safe at home.

A part alone is no checkpoint. All parts of one save are, and come home under one manifest, the merged one, which is
made here from the parts' own: what is verified at home is the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher.checkpoints.home import read_all
from launcher.checkpoints.remote_checkpoints import BrokenRemote, Listing, Piece, RemoteCheckpoint
from launcher.paths import LocalRun
from trainer.manifest import BrokenCheckpoint, merged, read_manifest, step_name


def one_listing(names: Sequence[str], listings: Sequence[Listing | None]) -> Listing:
    """What all nodes have together; None for a node that does not answer."""
    whole: dict[str, RemoteCheckpoint] = {}
    pieces: list[Piece] = []
    broken: list[BrokenRemote] = []
    for node, listing in enumerate(listings):
        if listing is None:
            continue
        for checkpoint in listing.whole:
            # Every node has the one that the run went on from.
            text, there = checkpoint.manifest_text, whole.get(checkpoint.manifest_text)
            found = (*(there.pieces if there else ()), Piece(node, checkpoint))
            whole[text] = RemoteCheckpoint(checkpoint.step, text, checkpoint.manifest, found)
        pieces += [Piece(node, part) for part in listing.parts]
        broken += [BrokenRemote(each.name, f"{each.why} (on `{names[node]}`)") for each in listing.broken]
    silent = [name for name, listing in zip(names, listings, strict=True) if listing is None]
    for made in _put_together(pieces, silent):
        if isinstance(made, BrokenRemote):
            broken.append(made)
        else:
            whole[made.manifest_text] = made
    return Listing(tuple(sorted(whole.values(), key=lambda checkpoint: checkpoint.step)), tuple(broken))


def _put_together(pieces: Sequence[Piece], silent: Sequence[str]) -> Iterator[RemoteCheckpoint | BrokenRemote]:
    """A whole checkpoint for each save that has all its parts, and what is missing for each that has not."""
    saves: dict[tuple[int, str], list[Piece]] = {}
    for piece in pieces:
        manifest = piece.checkpoint.manifest
        saves.setdefault((manifest.step, manifest.save), []).append(piece)
    for (step, _save), found in saves.items():
        try:
            manifest = merged([piece.checkpoint.manifest for piece in found])
        except BrokenCheckpoint as error:
            why = f"{error}; {', '.join(silent)} did not answer" if silent else str(error)
            yield BrokenRemote(step_name(step), why)
        else:
            yield RemoteCheckpoint(step, manifest.to_json(), manifest, tuple(found))


def is_part_at_home(local: LocalRun, part: RemoteCheckpoint) -> bool:
    """Whether home has a whole checkpoint with every file of this part in it, each byte read just now."""
    folder: Path = local.checkpoints / part.name
    try:
        home = read_manifest(folder)
        if not home.is_whole or any(home.files.get(name) != entry for name, entry in part.manifest.files.items()):
            return False
        read_all(folder, part.manifest)
    except BrokenCheckpoint:
        return False
    return True
