"""Sharing a trained agent: its card, the Hugging Face Hub, trained agents in the package."""
