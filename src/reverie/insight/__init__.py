"""What an agent has learned and what is going wrong. Reads runs, never writes into them; the core knows none of it."""
