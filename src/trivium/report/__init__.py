"""The report on a run: one offline HTML file made from what the run directory holds."""

from trivium.report.page import write_report

__all__ = ["write_report"]
