"""Plans and shards on disk."""
