"""Step 3: which neurons every worker receives."""
