"""From stored reports to verdicts and episodes: released statistics only, no other input."""
