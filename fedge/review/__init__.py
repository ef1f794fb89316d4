"""What a reviewer is handed: ledgers as one file, what they add up to, and a report in words."""
