"""Formulas that a campaign is to find again by itself."""

from __future__ import annotations

from campaign.references.catalogue import load_prepared, prepare_reference, read_reference


def test_excluded_formulas_keep_their_energies_and_lose_every_crystal(tmp_path):
    path = prepare_reference(read_reference(["builtin:quickstart"], base_dir=tmp_path), tmp_path)
    whole, less = load_prepared(path), load_prepared(path, ["SiMg2", "Ca2Si2"])
    hidden = {entry.formula for entry in whole if entry.raw is not None} - {
        entry.formula for entry in less if entry.raw is not None
    }
    assert hidden == {"Mg2Si", "CaSi"}
    assert len(less.hull_entries) == len(whole.hull_entries)
    assert less.in_bucket("Mg2Si1") == [] != whole.in_bucket("Mg2Si1")
    assert load_prepared(path, ("SiMg2", "Ca2Si2")) is less
