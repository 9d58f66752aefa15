"""An agent for others, and data from them: export, serving, recorded data, cards, the Hugging Face Hub."""
