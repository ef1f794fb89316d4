"""The compliance report: one model of facts, written as HTML, PDF, JSON and CSV."""
