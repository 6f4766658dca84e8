"""The `lighthouse` command. One file a group of commands; heavy imports stand inside commands."""
