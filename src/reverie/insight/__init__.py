"""What an agent has learned and what is going wrong. Reads runs, keeps its findings in them; the core knows none."""
