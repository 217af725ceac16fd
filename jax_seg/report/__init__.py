"""Figures, and the HTML report on one or more runs."""
