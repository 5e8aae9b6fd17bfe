"""Overload: floods of forged packets, and more requests than a gateway can serve."""
