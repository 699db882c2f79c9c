"""Files written whole or not at all, hashes of values, and where a result comes from."""
