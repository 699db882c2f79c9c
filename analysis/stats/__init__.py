"""Statistics on arrays. Nothing here knows a label, a table or a file."""
