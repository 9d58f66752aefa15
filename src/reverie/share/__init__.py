"""An agent for others: exported as a file that needs neither this package nor torch."""
