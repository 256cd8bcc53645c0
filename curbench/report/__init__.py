"""Run directories in; one self-contained HTML page out."""

from curbench.report.page import write_report

__all__ = ["write_report"]
