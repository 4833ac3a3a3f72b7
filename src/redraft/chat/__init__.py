"""Conversations: templates, prompts, protocols, rollout."""
