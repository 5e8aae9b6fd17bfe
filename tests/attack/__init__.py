"""Attacks on a running gateway, each with a client beside it that must notice nothing.

`python -m attack HOST PORT` runs them (`scripts/attack`); tests/e2e/test_attack.py runs the short
forms against a gateway of its own.
"""
