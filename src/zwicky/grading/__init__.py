"""Grading by people: a local page, judgements in SQLite, team catalogues, and labels learned from grades."""
